//! End to end, one binary: real daemons, real clients.
