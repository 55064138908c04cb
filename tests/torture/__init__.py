"""Long and seeded: faults under load, and a ledger of what must not be lost."""
