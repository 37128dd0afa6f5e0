//! The run-to-completion loop of one core, and the handle that commands it.
