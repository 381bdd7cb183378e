"""What `ledgerflux status` shows, one module a source; `whole` asks them all, `view` draws."""
