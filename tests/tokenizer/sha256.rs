//! SHA-256 (FIPS 180-4), to identify the files of the vocabulary.

/// Returns the first 32 bits of the fractional parts of `root(p)` for the first `N` primes `p`.
fn fractions<const N: usize>(root: fn(f64) -> f64) -> [u32; N] {
    let primes = (2u32..).filter(|n| (2..*n).all(|d| n % d != 0));
    let mut out = [0; N];
    for (to, prime) in out.iter_mut().zip(primes) {
        *to = (root(f64::from(prime)).fract() * 2f64.powi(32)) as u32;
    }
    out
}

pub fn hex(data: &[u8]) -> String {
    let constants: [u32; 64] = fractions(f64::cbrt);
    let mut hash: [u32; 8] = fractions(f64::sqrt);
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64) + if (data.len() + 1) % 64 > 56 { 64 } else { 0 } - 8, 0);
    padded.extend((data.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words: Vec<u32> =
            block.chunks_exact(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())).collect();
        for t in 16..64 {
            let (a, b) = (words[t - 15], words[t - 2]);
            let small = [
                a.rotate_right(7) ^ a.rotate_right(18) ^ (a >> 3),
                b.rotate_right(17) ^ b.rotate_right(19) ^ (b >> 10),
            ];
            words.push([words[t - 16], words[t - 7], small[0], small[1]].into_iter().fold(0, u32::wrapping_add));
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = hash;
        for (constant, word) in constants.iter().zip(words) {
            let choice = (e & f) ^ (!e & g);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            let big_e = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let big_a = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let first = [h, big_e, choice, *constant, word].into_iter().fold(0, u32::wrapping_add);
            (h, g, f, e, d, c, b, a) =
                (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(big_a).wrapping_add(majority));
        }
        for (sum, part) in hash.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *sum = sum.wrapping_add(part);
        }
    }
    hash.iter().map(|word| format!("{word:08x}")).collect()
}

#[test]
fn the_standard_s_examples() {
    assert_eq!(hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(hex(&[b'a'; 56]), "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
}
