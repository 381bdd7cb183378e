"""What `ledgerflux doctor` looks at, one module a dependency."""
