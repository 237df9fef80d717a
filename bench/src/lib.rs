//! netbench.
