//! What is bound to a statement.

/// A value that is bound: whole numbers, texts, bytes, or nothing of one of these.
#[derive(Debug, Clone)]
pub(in super::super) enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Value {
    pub(in super::super) fn is_some(&self) -> bool {
        !matches!(self, Self::Number(None) | Self::Text(None) | Self::Bytes(None))
    }

    /// How many bytes a text or bytes have.
    pub(in super::super) fn len(&self) -> usize {
        match self {
            Self::Number(_) => 0,
            Self::Text(text) => text.as_ref().map_or(0, String::len),
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, Vec::len),
        }
    }
}

macro_rules! values {
    ($($from:ty => $kind:ident by $of:expr;)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$kind(Some($of(value)))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$kind(value.map($of))
            }
        }
    )*};
}

values! {
    i64 => Number by |value| value;
    i32 => Number by i64::from;
    u32 => Number by i64::from;
    u8 => Number by i64::from;
    bool => Number by i64::from;
    String => Text by |value| value;
    &str => Text by str::to_owned;
    &String => Text by String::clone;
    Vec<u8> => Bytes by |value| value;
    &[u8] => Bytes by <[u8]>::to_vec;
    &Vec<u8> => Bytes by Vec::clone;
}

impl From<&Option<String>> for Value {
    fn from(value: &Option<String>) -> Self {
        Self::Text(value.clone())
    }
}

impl From<&Option<Vec<u8>>> for Value {
    fn from(value: &Option<Vec<u8>>) -> Self {
        Self::Bytes(value.clone())
    }
}

impl From<&i64> for Value {
    fn from(value: &i64) -> Self {
        Self::Number(Some(*value))
    }
}
