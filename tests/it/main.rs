//! All integration tests in one program: each more would link the whole tree again.

mod sim;
