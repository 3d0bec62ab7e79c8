"""What tests and benches of operations share: named inputs, the error criterion, the contracts."""
