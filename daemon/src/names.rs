//! Host names in a program that is linked with the GNU C library statically. Owns how that library looks them up; the looking up is the
//! standard library's.

/// Keeps host names to `/etc/hosts` and the name servers of `/etc/resolv.conf`. To be called before the first name is looked up.
///
/// What else `/etc/nsswitch.conf` may name are plug-ins made for the machine's own C library, and a static program that loaded one of
/// another version would end there. Those two are part of the program. Does nothing in a program that is linked dynamically.
pub fn without_plugins() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    #[expect(
        unsafe_code,
        reason = "there is no other way to keep a static program from plug-ins of another C library"
    )]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: declared so in <nss.h>; both strings end in zero and are only read.
        let done = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
        debug_assert_eq!(done, 0, "the C library knows this database");
    }
}
