//! File descriptors. A connection is one, and many containers begin with room for 1,024 though they
//! may have hundreds of thousands: the lower limit is for programs that use `select`.

use std::io;

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// Raises the process' soft limit to its hard one, logs what it is then, and gives it; `None`: there
/// is no limit. `needed`: what all limits on connections come to.
pub fn raise(needed: u64) -> Option<u64> {
    let limit = match raised() {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "raising the limit on open files failed");
            getrlimit(Resource::Nofile).current
        }
    };
    // None: there is no limit.
    match limit {
        Some(limit) if limit < needed => {
            tracing::warn!(
                limit,
                needed,
                "the limit on open files (ulimit -n) is lower than what connections may need; raise its hard limit"
            );
        }
        limit => tracing::info!(limit, "limit on open files"),
    }
    limit
}

/// Whether it is this process, or its machine, that has no room for another connection: that says
/// nothing of who was to be reached.
pub fn are_used_up(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        // The last one: no port is left to connect from.
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
    )
}

fn raised() -> rustix::io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(current);
    }
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_may_open_as_many_files_as_its_hard_limit_allows() {
        let before = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(512),
            ..before
        };
        setrlimit(Resource::Nofile, low).unwrap();
        raise(1);
        let after = getrlimit(Resource::Nofile);
        assert_eq!(
            (after.current, after.maximum),
            (before.maximum, before.maximum)
        );
    }
}
