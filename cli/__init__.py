"""The `ledgerflux` command and the embedded stack."""
