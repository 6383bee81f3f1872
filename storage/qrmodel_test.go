package storage_test

// model is the QR grant written a second time, from protocol §3 alone: seconds instead of
// times, words instead of states, and nothing shared with the record but the constants a
// reader of the protocol would copy. It is what the random walks compare the record with.
type model struct {
	lifetime, maxAge int
	device, bound    bool
	hosted           bool
	// hint is who may claim; "" is anybody, "nobody" is nobody.
	hint string

	state                              string
	owner                              string
	handle                             byte
	scannedAt, approvedAt, redeemedAt  int
	decidedAt                          int
	decided, reported, logged          bool
	tries, repeats, failures, interval int
}

func (m *model) deadline() int {
	switch m.state {
	case "pending":
		return m.lifetime - 60
	case "scanned":
		end := m.lifetime
		if m.device {
			end -= 15
		}
		return min(end, m.scannedAt+120)
	case "approved":
		if m.hosted {
			return m.approvedAt + 120
		}
		return m.approvedAt + min(125, max(30, 2*m.interval+5))
	}
	return 1 << 30
}

// at is the state as every endpoint sees it.
func (m *model) at(now int) string {
	if m.logged || now >= m.deadline() {
		return "expired"
	}
	return m.state
}

func (m *model) live(now int) bool {
	state := m.at(now)
	return state == "pending" || state == "scanned" || state == "approved"
}

// poll is the order at /token: proof, state and clock, interval.
func (m *model) poll(now int, proved, early bool) (outcome, row string) {
	if m.state == "redeemed" && !m.logged {
		if m.bound && proved && now < m.redeemedAt+10 {
			return "used", ""
		}
		return "replayed", ""
	}
	if !proved {
		return "unproved", m.unproved(now)
	}
	switch m.at(now) {
	case "expired":
		return "expired", ""
	case "approved":
		return "ready", ""
	case "pending", "scanned":
	default:
		return "denied", ""
	}
	if !early {
		return "pending", ""
	}
	if m.interval < 60 {
		m.interval += 5
		return "slow_down", "-"
	}
	return "slow_down", ""
}

func (m *model) unproved(now int) string {
	if !m.live(now) {
		return ""
	}
	if m.failures++; m.failures == 5 {
		m.state = "aborted"
	}
	return "qr.binding_failed"
}

func (m *model) redeem(now int, proved bool) (outcome, row string) {
	outcome, row = m.poll(now, proved, false)
	switch outcome {
	case "ready":
		m.state, m.redeemedAt = "redeemed", now
		return outcome, "qr.redeemed"
	case "replayed":
		return "used", ""
	}
	return outcome, row
}

func (m *model) scan(now int, who string, handle byte, typed, fresh bool) (outcome, row string) {
	switch m.at(now) {
	case "scanned":
		if who != m.owner {
			return "taken", ""
		}
		if m.repeats == 5 {
			return "limit", ""
		}
		m.repeats++
		m.handle = handle
		return "repeated", "-"
	case "approved":
		if who != m.owner {
			return "taken", ""
		}
		return "decided", ""
	case "pending":
	default:
		return "gone", ""
	}
	switch {
	case !fresh:
		return "stale", ""
	case m.hint != "" && m.hint != who:
		return "wrong_account", ""
	case m.maxAge >= 0 && now+1 > m.maxAge: // people signed in one second before the opening
		return "step_up", ""
	}
	m.state, m.owner, m.handle, m.scannedAt, m.tries = "scanned", who, handle, now, 3
	if typed {
		m.tries = 1
	}
	return "claimed", "qr.scanned"
}

// decide takes verdict approve, deny or report; flaw is "", code, form or digest.
func (m *model) decide(now int, who string, handle byte, verdict, flaw string) (outcome, row string) {
	if m.owner == "" || who != m.owner || handle != m.handle || m.decided && now >= m.decidedAt+120 {
		return "unknown", ""
	}
	switch state := m.at(now); {
	case verdict != "approve" && (state == "scanned" || state == "approved"):
		m.state, m.decided, m.decidedAt, m.reported = "denied", true, now, verdict == "report"
		if m.reported {
			return "denied", "qr.reported"
		}
		return "denied", "qr.denied"
	case state == "scanned":
		return m.approve(now, flaw)
	case verdict == "approve" && (state == "approved" || state == "redeemed"):
		return "approved", ""
	case verdict == "report" && state == "denied" && !m.reported:
		m.reported = true
		return "denied", "qr.reported"
	case verdict != "approve" && state == "denied":
		return "denied", ""
	}
	return "gone", ""
}

func (m *model) approve(now int, flaw string) (outcome, row string) {
	switch flaw {
	case "digest":
		return "changed", ""
	case "form":
		return "malformed", ""
	case "code":
		if m.tries--; m.tries == 0 {
			m.state = "aborted"
		}
		return "mismatch", "qr.code_failed"
	}
	m.state, m.approvedAt, m.decided, m.decidedAt = "approved", now, true, now
	return "approved", "qr.approved"
}

func (m *model) cancel(now int) (outcome, row string) {
	if m.state == "redeemed" && !m.logged {
		return "redeemed", ""
	}
	if !m.live(now) {
		return "done", ""
	}
	m.state = "cancelled"
	return "done", "qr.cancelled"
}

func (m *model) abort(now int) (outcome, row string) {
	if !m.live(now) {
		return m.at(now), ""
	}
	m.state = "aborted"
	return "ok", "qr.revoked"
}

func (m *model) sweep(now int) (outcome, row string) {
	if m.owner == "" || m.logged || m.at(now) != "expired" {
		return "no", ""
	}
	m.logged = true
	return "logged", "qr.expired"
}
