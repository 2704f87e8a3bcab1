//! Where lines end, and JSON's strings. Most of them are short, so these searches are compiled into
//! their callers: those at the root of memchr, which find out at run time how wide the processor's
//! vectors are, take longer to begin than a line takes to search. For long lines they are the faster
//! ones.

#[cfg(target_arch = "aarch64")]
use memchr::arch::aarch64::neon::memchr as inlined;
#[cfg(target_arch = "x86_64")]
use memchr::arch::x86_64::sse2::memchr as inlined;

/// The place of the first CR or LF.
#[inline]
pub fn find_end(text: &[u8]) -> Option<usize> {
    find_either(b'\r', b'\n', text)
}

/// The place of the first `"` or `\`.
#[inline]
pub fn find_quote_or_backslash(text: &[u8]) -> Option<usize> {
    find_either(b'"', b'\\', text)
}

#[inline]
fn find_either(one: u8, other: u8, text: &[u8]) -> Option<usize> {
    #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
    return inlined::Two::new(one, other)?.find(text);
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    memchr::memchr2(one, other, text)
}

/// The place of the first LF.
#[inline]
pub fn find_lf(text: &[u8]) -> Option<usize> {
    #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
    return inlined::One::new(b'\n')?.find(text);
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    memchr::memchr(b'\n', text)
}
