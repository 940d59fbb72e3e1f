"""Pure decisions over the store: orchestrators, allocator, scheduler, restart, update, reaper."""
