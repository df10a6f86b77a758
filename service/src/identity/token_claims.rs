//! All that a verified ID token says.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{Claims, IssuerKind, Subject, gitlab::GitLabClaims};

/// Who holds a verified ID token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearer {
    /// A job of a forge.
    Job(Box<Claims>),
    /// Whom an issuer of kind `oidc` calls so.
    Subject {
        /// The issuer, as configured.
        issuer: String,
        /// Its name for the one that holds the token.
        subject: Subject,
    },
}

/// What a verified ID token says: who holds it, and each claim by its name.
#[derive(Debug, Clone)]
pub struct TokenClaims {
    /// Who holds it.
    pub bearer: Bearer,
    texts: BTreeMap<String, String>,
}

impl TokenClaims {
    /// The claims in a payload, in the words of that kind of issuer.
    ///
    /// # Errors
    /// When a claim is missing, of another shape, or there twice.
    pub fn read(kind: IssuerKind, payload: &[u8]) -> Result<Self, serde_json::Error> {
        let Claimed(claims) = serde_json::from_slice(payload)?;
        let texts = claims.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect();
        let value = Value::Object(claims);
        let bearer = match kind {
            IssuerKind::GitHub | IssuerKind::Forgejo => Bearer::job(Claims::deserialize(value)?)?,
            IssuerKind::GitLab => Bearer::job(GitLabClaims::deserialize(value)?.into())?,
            IssuerKind::Oidc => {
                #[derive(Deserialize)]
                struct Named {
                    iss: String,
                    sub: Subject,
                }
                let Named { iss, sub } = Named::deserialize(value)?;
                Bearer::Subject { issuer: iss, subject: sub }
            }
        };
        if let Bearer::Job(claims) = &bearer
            && kind != IssuerKind::GitLab
            && claims.repository.owner().contains('/')
        {
            return Err(de::Error::custom(format!(
                "{:?} is no repository. Write owner/name",
                claims.repository
            )));
        }
        Ok(Self { bearer, texts })
    }

    /// Who says so.
    pub fn issuer(&self) -> &str {
        match &self.bearer {
            Bearer::Job(claims) => &claims.issuer,
            Bearer::Subject { issuer, .. } => issuer,
        }
    }

    /// A claim that is a text, a number, true or false.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// The job's claims, if it is one of a forge.
    pub fn job(&self) -> Option<&Claims> {
        match &self.bearer {
            Bearer::Job(claims) => Some(claims),
            Bearer::Subject { .. } => None,
        }
    }
}

impl Bearer {
    /// A job, if the numbers are there by which its names are trusted.
    fn job(claims: Claims) -> Result<Self, serde_json::Error> {
        if claims.repository_owner_id.is_none() {
            return Err(de::Error::missing_field("repository_owner_id"));
        }
        Ok(Self::Job(Box::new(claims)))
    }
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(claims) => claims.repository.fmt(f),
            Self::Subject { subject, .. } => write!(f, "the subject {subject:?}"),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A payload's claims. One that is said twice is refused: which of them counts would be anybody's guess.
struct Claimed(Map<String, Value>);

impl<'de> Deserialize<'de> for Claimed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Claimed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Claimed, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    let shown: String = name.chars().take(100).collect();
                    if claims.insert(name, value).is_some() {
                        return Err(de::Error::custom(format!("duplicate field `{}`", shown.escape_debug())));
                    }
                }
                Ok(Claimed(claims))
            }
        }

        deserializer.deserialize_map(Once)
    }
}
