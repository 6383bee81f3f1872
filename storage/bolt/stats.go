package bolt

// Stats is a look at what the store holds in memory and has counted since it was opened.
type Stats struct {
	// PendingSessions is the number of QR sessions in memory.
	PendingSessions int
	// ExpiredUnscanned counts the QR sessions forgotten without a scan; they have no audit row.
	ExpiredUnscanned uint64
	// DroppedEvents counts the rows of RecordEvent that were not written.
	DroppedEvents uint64
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	return Stats{
		PendingSessions:  int(s.memory.count.Load()),
		ExpiredUnscanned: s.memory.unscanned.Load(),
		DroppedEvents:    s.waiting.dropped.Load(),
	}
}
