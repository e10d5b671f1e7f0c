//! Private keys for pod certificates, and the empty PKCS#10 request that proves them.
//!
//! Signatures come from `ring` where it knows the algorithm. It neither makes RSA
//! keys nor knows P-521, so primes are searched here and that curve has a crate
//! of its own. Every key is checked by signing with it once.

mod der;
mod prime;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use num_bigint::BigUint;
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaKeyPair},
};

use der::{BIT_STRING, OBJECT_ID, OCTET_STRING, SEQUENCE, bits, integer, sequence, tagged};

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const NULL: &[u8] = &[0x05, 0x00];
const RSA_EXPONENT: u32 = 65_537;
const P521_BYTES: usize = 66;

/// A key that no other has.
pub struct NewKey {
    /// PKCS#8, as PEM.
    pub pem: String,
    /// A PKCS#10 request without a word in it, DER, signed with the key.
    pub request: Vec<u8>,
}

/// Makes a key of a type as pods name it. Takes seconds for long RSA keys.
pub fn generate(key_type: &str) -> Result<NewKey, String> {
    match key_type {
        "ECDSAP256" => ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, P256, ECDSA_SHA256),
        "ECDSAP384" => ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, P384, ECDSA_SHA384),
        "ECDSAP521" => p521(),
        "ED25519" => ed25519(),
        "RSA3072" => rsa(3072),
        "RSA4096" => rsa(4096),
        other => Err(format!("unknown key type {other:?}")),
    }
}

fn unspecified(what: &str) -> impl Fn(ring::error::Unspecified) -> String {
    move |_| format!("cannot {what}")
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(unspecified("read random bytes"))?;
    Ok(bytes)
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, curve: &[u8], signed_by: &[u8]) -> Result<NewKey, String> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(unspecified("make a key"))?;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(|error| error.to_string())?;
    let public = ec_public(curve, key.public_key().as_ref());
    let sign = |info: &[u8]| {
        let signature = key.sign(&random, info).map_err(unspecified("sign"))?;
        Ok(signature.as_ref().to_vec())
    };
    finish(pkcs8.as_ref(), &public, &[&tagged(OBJECT_ID, signed_by)], sign)
}

fn ec_public(curve: &[u8], point: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&tagged(OBJECT_ID, EC_PUBLIC_KEY), &tagged(OBJECT_ID, curve)]);
    sequence(&[&algorithm, &bits(point)])
}

fn p521() -> Result<NewKey, String> {
    use ::p521::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer};
    let key = loop {
        let mut secret = random::<P521_BYTES>()?;
        secret[0] &= 1;
        // Refused when it is not below the order, which one in a million is not.
        if let Ok(key) = SigningKey::from_slice(&secret) {
            break key;
        }
    };
    let point = VerifyingKey::from(&key).to_sec1_point(false);
    let secret = tagged(OCTET_STRING, &key.to_bytes());
    let own = sequence(&[&integer(&[1]), &secret, &tagged(der::CONTEXT_1, &bits(point.as_bytes()))]);
    let algorithm = sequence(&[&tagged(OBJECT_ID, EC_PUBLIC_KEY), &tagged(OBJECT_ID, P521)]);
    let pkcs8 = sequence(&[&integer(&[0]), &algorithm, &tagged(OCTET_STRING, &own)]);
    let sign = |info: &[u8]| {
        let signature: Signature = key.try_sign(info).map_err(|error| error.to_string())?;
        let (r, s) = signature.split_bytes();
        Ok(sequence(&[&integer(&r), &integer(&s)]))
    };
    finish(&pkcs8, &ec_public(P521, point.as_bytes()), &[&tagged(OBJECT_ID, ECDSA_SHA512)], sign)
}

fn ed25519() -> Result<NewKey, String> {
    let seed = random::<32>()?;
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| error.to_string())?;
    let algorithm = sequence(&[&tagged(OBJECT_ID, ED25519)]);
    // Without the public key, which older programs do not expect here.
    let own = tagged(OCTET_STRING, &tagged(OCTET_STRING, &seed));
    let pkcs8 = sequence(&[&integer(&[0]), &algorithm, &own]);
    let public = sequence(&[&algorithm, &bits(key.public_key().as_ref())]);
    finish(&pkcs8, &public, &[&tagged(OBJECT_ID, ED25519)], |info| Ok(key.sign(info).as_ref().to_vec()))
}

fn rsa(size: u32) -> Result<NewKey, String> {
    let e = BigUint::from(RSA_EXPONENT);
    let one = BigUint::from(1u8);
    let (p, q, d) = loop {
        let (p, q) = (prime::find(size / 2)?, prime::find(size / 2)?);
        let (p, q) = if p > q { (p, q) } else { (q, p) };
        let phi = (&p - &one) * (&q - &one);
        if p != q
            && let Some(d) = e.modinv(&phi)
        {
            break (p, q, d);
        }
    };
    let n = &p * &q;
    let inverse = q.modinv(&p).ok_or("the primes are not coprime")?;
    let numbers = [&n, &e, &d, &p, &q, &(&d % (&p - &one)), &(&d % (&q - &one)), &inverse];
    let mut own = integer(&[0]);
    for number in numbers {
        own.extend(integer(&number.to_bytes_be()));
    }
    let algorithm = sequence(&[&tagged(OBJECT_ID, RSA), NULL]);
    let pkcs8 = sequence(&[&integer(&[0]), &algorithm, &tagged(OCTET_STRING, &tagged(SEQUENCE, &own))]);
    let key = RsaKeyPair::from_pkcs8(&pkcs8).map_err(|error| error.to_string())?;
    let public = sequence(&[&algorithm, &bits(key.public_key().as_ref())]);
    let sign = |info: &[u8]| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), info, &mut signature)
            .map_err(unspecified("sign"))?;
        Ok(signature)
    };
    finish(&pkcs8, &public, &[&tagged(OBJECT_ID, RSA_SHA256), NULL], sign)
}

/// Puts the request around the public key and writes the private one.
fn finish(
    pkcs8: &[u8],
    public: &[u8],
    signed_by: &[&[u8]],
    sign: impl Fn(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<NewKey, String> {
    let info = sequence(&[&integer(&[0]), &sequence(&[]), public, &tagged(der::CONTEXT_0, &[])]);
    let signature = bits(&sign(&info)?);
    debug_assert_eq!(signature[0], BIT_STRING);
    let request = sequence(&[&info, &sequence(signed_by), &signature]);
    Ok(NewKey { pem: pem("PRIVATE KEY", pkcs8), request })
}

/// A PEM block, 64 letters a line.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;
    use x509_parser::prelude::{FromDer, X509CertificationRequest};

    use super::*;

    #[test]
    fn a_request_is_empty_and_signed_by_its_key() {
        for key_type in ["ECDSAP256", "ECDSAP384", "ED25519"] {
            let key = generate(key_type).unwrap();
            let (rest, request) = X509CertificationRequest::from_der(&key.request).unwrap();
            assert!(rest.is_empty(), "{key_type}");
            request.verify_signature().unwrap();
            let info = &request.certification_request_info;
            assert!(info.subject.iter().next().is_none() && info.attributes().is_empty(), "{key_type}");
            // Another library reads the same key out of the file.
            let read = rcgen::KeyPair::from_pem(&key.pem).unwrap();
            assert_eq!(read.subject_public_key_info(), info.subject_pki.raw, "{key_type}");
        }
        assert!(generate("RSA1024").is_err());
    }

    #[test]
    fn the_request_of_a_p521_key_verifies() {
        use ::p521::ecdsa::{Signature, VerifyingKey, signature::Verifier};
        let key = generate("ECDSAP521").unwrap();
        let (_, request) = X509CertificationRequest::from_der(&key.request).unwrap();
        let point = &request.certification_request_info.subject_pki.subject_public_key.data;
        let public = VerifyingKey::from_sec1_bytes(point).unwrap();
        let parsed = der::pair(&request.signature_value.data, P521_BYTES).unwrap();
        let signature = Signature::from_slice(&parsed).unwrap();
        public.verify(request.certification_request_info.raw, &signature).unwrap();
        assert!(public.verify(b"something else", &signature).is_err());
        assert!(key.pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    }

    #[test]
    fn an_rsa_key_signs_its_request() {
        // Short, because the search takes long without optimization; the steps are the same.
        let key = rsa(2048).unwrap();
        let (_, request) = X509CertificationRequest::from_der(&key.request).unwrap();
        request.verify_signature().unwrap();
        let read = rcgen::KeyPair::from_pem(&key.pem).unwrap();
        assert_eq!(read.subject_public_key_info(), request.certification_request_info.subject_pki.raw);
    }
}
