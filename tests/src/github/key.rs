//! An issuer's keys, and tokens signed with them, rightly and wrongly.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_SHA256},
};
use data_encoding::{BASE64_MIME, BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Map, Value, json};

/// What a token says.
pub type Claims = Map<String, Value>;

/// A real RSA key of 2048 bits, with a name.
pub struct Key {
    pair: KeyPair,
    kid: String,
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// As GitHub does: RS256 with the issuer's newest key.
    Well,
    /// RS256 with a stranger's key, under the name of the issuer's.
    ByAnother,
    /// RS256 with a stranger's key, under a name that the issuer does not list.
    ByUnknownKid,
    /// RS256 with the issuer's key, without its name.
    WithoutKid,
    /// `alg: none`, and no signature.
    NotAtAll,
    /// HS256, the secret being the issuer's public key in PEM.
    Hs256WithPublicKey,
}

impl Key {
    /// A new key.
    pub fn generate() -> Self {
        let mut name = [0u8; 16];
        getrandom::fill(&mut name).unwrap();
        Self { pair: KeyPair::generate(KeySize::Rsa2048).unwrap(), kid: HEXLOWER.encode(&name) }
    }

    /// The key as the issuer lists it.
    pub fn jwk(&self) -> Value {
        let public = self.pair.public_key();
        json!({
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": self.kid,
            "n": BASE64URL_NOPAD.encode(public.modulus().big_endian_without_leading_zero()),
            "e": BASE64URL_NOPAD.encode(public.exponent().big_endian_without_leading_zero()),
        })
    }

    /// The public key in PEM, as anyone can make it from what the issuer lists.
    pub fn public_pem(&self) -> String {
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(self.pair.public_key()).unwrap();
        let text = BASE64_MIME.encode(der.as_ref()).replace("\r\n", "\n");
        format!("-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n")
    }

    /// The private key in PEM, as GitHub gives an App's: PKCS #1.
    pub fn private_pem(&self) -> String {
        /// What PKCS #8 puts before an RSA key of 2048 bits.
        const FRAME: usize = 26;
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&self.pair).unwrap();
        let text = BASE64_MIME.encode(&der.as_ref()[FRAME..]).replace("\r\n", "\n");
        format!("-----BEGIN RSA PRIVATE KEY-----\n{text}-----END RSA PRIVATE KEY-----\n")
    }

    /// A token.
    pub fn sign(&self, claims: &Claims, signed: Signed) -> String {
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let rs256 = |pair: &KeyPair, message: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        };
        let header = match signed {
            Signed::Well | Signed::ByAnother => json!({ "typ": "JWT", "alg": "RS256", "kid": self.kid }),
            Signed::ByUnknownKid => json!({ "typ": "JWT", "alg": "RS256", "kid": "unknown" }),
            Signed::WithoutKid => json!({ "typ": "JWT", "alg": "RS256" }),
            Signed::NotAtAll => json!({ "typ": "JWT", "alg": "none", "kid": self.kid }),
            Signed::Hs256WithPublicKey => json!({ "typ": "JWT", "alg": "HS256", "kid": self.kid }),
        };
        let message = format!("{}.{}", part(&header), part(&Value::Object(claims.clone())));
        let signature = match signed {
            Signed::Well | Signed::WithoutKid => rs256(&self.pair, message.as_bytes()),
            Signed::ByAnother | Signed::ByUnknownKid => rs256(&Self::generate().pair, message.as_bytes()),
            Signed::NotAtAll => Vec::new(),
            Signed::Hs256WithPublicKey => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, self.public_pem().as_bytes());
                hmac::sign(&secret, message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
    }
}
