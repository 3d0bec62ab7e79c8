"""What tests, benches and the doctor share: named inputs, the error criterion, the contracts."""
