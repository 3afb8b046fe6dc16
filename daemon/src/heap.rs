//! Memory of a daemon that works in bursts: the GNU C library gives every thread a heap of its own, and each keeps what its busiest
//! moment took. Owns the two settings of that library that end this; is no allocator, and changes nothing with another library.

/// Lets all threads share one heap. To be called before there is a second thread: those that have a heap keep it.
///
/// An agent with fifty pods takes 24.7 MB with the usual heaps and 22.2 MB with one (`tests/benches/RESULTS.md`, fifth run); its few
/// threads hardly ever wait for it.
pub fn share_one() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(
            unsafe_code,
            reason = "the C library offers no other way but its environment, which is read before main"
        )]
        // SAFETY: takes two numbers by value and changes only the allocator's own settings, under its own lock.
        let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        debug_assert_eq!(done, 1, "the C library knows this setting");
    }
}

/// How many pages more than after the last time make it worth while: half a megabyte where pages have four kilobytes.
const GROWN: usize = 128;

/// Gives memory back to the system after bursts.
#[derive(Debug, Default)]
pub struct Returns {
    /// Pages that were resident when it was last looked, or after the last time; none: never.
    resident: Option<usize>,
}

impl Returns {
    /// To be called every few seconds. Gives back what holds nothing when the process has grown since it was smallest, during which no thread can
    /// allocate. Otherwise reads one small file.
    pub fn look(&mut self) {
        let Some(now) = resident_pages() else { return };
        if now < self.resident.map_or(0, |before| before + GROWN) {
            self.resident = self.resident.map(|before| before.min(now));
            return;
        }
        give_back();
        self.resident = resident_pages();
    }
}

fn resident_pages() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

/// Gives pages that hold nothing back to the system.
fn give_back() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(
            unsafe_code,
            reason = "the C library gives back only what lies at the end of a heap by itself"
        )]
        // SAFETY: touches only memory that is free, under the allocator's own lock.
        let _freed = unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_a_burst_took_is_given_back_though_something_of_it_stays() {
        share_one();
        let keep = std::thread::spawn(|| {
            let mut all: Vec<Box<[u8; 8000]>> = (0..8000).map(|_| Box::new([1; 8000])).collect();
            // The last of them holds the heap's end in its place.
            all.drain(..7999).for_each(drop);
            all
        });
        let kept = keep.join().unwrap();
        let before = resident_pages().unwrap();
        let mut returns = Returns::default();
        returns.look();
        let after = resident_pages().unwrap();
        assert!(after + 10_000 < before, "{before} pages before, {after} after");
        assert_eq!(kept.len(), 1);
    }
}
