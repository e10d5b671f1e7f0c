//! Random primes for RSA: odd numbers of full length, tried one after the other
//! (FIPS 186-5, A.1.3 without its auxiliary primes).

use num_bigint::BigUint;
use ring::rand::{SecureRandom, SystemRandom};

/// Rounds of Miller and Rabin's test. For random numbers of 1536 bits and more,
/// fewer would already leave less than one mistake in 2^128.
const ROUNDS: usize = 5;
/// Numbers that small primes divide are sorted out first.
const SMALL_MAX: u32 = 2000;

/// A prime of exactly `size` bits whose two highest bits are set, so that a
/// product of two has twice as many bits; one less is not a multiple of 65537.
pub fn find(size: u32) -> Result<BigUint, String> {
    let small = small_primes();
    loop {
        let candidate = odd(size)?;
        if small.iter().any(|prime| &candidate % *prime == BigUint::ZERO) {
            continue;
        }
        if (&candidate - 1u8) % super::RSA_EXPONENT != BigUint::ZERO && is_prime(&candidate)? {
            return Ok(candidate);
        }
    }
}

fn odd(size: u32) -> Result<BigUint, String> {
    let mut number = random(size)?;
    for bit in [0, size - 2, size - 1] {
        number.set_bit(bit.into(), true);
    }
    Ok(number)
}

/// A number below 2^size.
fn random(size: u32) -> Result<BigUint, String> {
    let mut bytes = vec![0; size.div_ceil(8) as usize];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "cannot read random bytes")?;
    Ok(BigUint::from_bytes_be(&bytes) >> (bytes.len() as u32 * 8 - size))
}

fn small_primes() -> Vec<u32> {
    let mut found: Vec<u32> = Vec::new();
    for number in (3..SMALL_MAX).step_by(2) {
        if found.iter().all(|prime| number % prime != 0) {
            found.push(number);
        }
    }
    found
}

/// Miller and Rabin's test of an odd number above four.
fn is_prime(number: &BigUint) -> Result<bool, String> {
    let one = BigUint::from(1u8);
    let last = number - &one;
    let twos = last.trailing_zeros().unwrap_or_default();
    let odd_part = &last >> twos;
    for _ in 0..ROUNDS {
        let base = random(number.bits() as u32 - 1)? + 2u8;
        let mut power = base.modpow(&odd_part, number);
        if power == one || power == last {
            continue;
        }
        let mut witness = true;
        for _ in 1..twos {
            power = power.modpow(&BigUint::from(2u8), number);
            if power == last {
                witness = false;
                break;
            }
        }
        if witness {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let two = BigUint::from(2u8);
        let mersenne = two.pow(127) - 1u8;
        assert!(is_prime(&mersenne).unwrap());
        // Carmichael's numbers fool simpler tests.
        for composite in [561u32, 41_041, 825_265] {
            assert!(!is_prime(&BigUint::from(composite)).unwrap(), "{composite}");
        }
        assert!(!is_prime(&(&mersenne * (two.pow(89) - 1u8))).unwrap());
        let found = find(256).unwrap();
        assert_eq!(found.bits(), 256);
        assert!(found.bit(254) && is_prime(&found).unwrap());
    }
}
