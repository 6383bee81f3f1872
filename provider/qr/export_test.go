package qr

import (
	"net/netip"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

// What the external tests need to see of the package's inside.
var (
	NormalizeUserCode = normalizeUserCode
	NewUserCode       = newUserCode
	PreferredWait     = preferredWait
	CleanText         = cleanText
	DescribeUserAgent = describeUserAgent
)

// Payload draws a frame with a key of that secret.
func Payload(issuer string, secretKey []byte, q *storage.QRSession, now time.Time) (string, error) {
	k, err := newServerKey(Key{ID: "test", Secret: secretKey})
	if err != nil {
		return "", err
	}
	return k.payload(issuer, q, now)
}

// Genuine parses a payload and reports whether its tag is right and its frame fresh.
func Genuine(issuer string, secretKey []byte, q *storage.QRSession, now time.Time, text string) (genuine, fresh bool) {
	k, err := newServerKey(Key{ID: "test", Secret: secretKey})
	if err != nil {
		return false, false
	}
	f, ok := parseFrame(issuer, text)
	if !ok || f.id != q.ID || !k.genuine(issuer, f) {
		return false, false
	}
	return true, f.fresh(q, now)
}

// ParsedAgain parses a payload and writes it again; it reports false for what is refused.
func ParsedAgain(issuer, text string) (string, bool) {
	f, ok := parseFrame(issuer, text)
	if !ok {
		return "", false
	}
	return payloadPrefix(issuer) + f.id.String() + showCount(f.count) + f.tag, true
}

// Pacer judges polls of one session as the token endpoint does.
type Pacer struct {
	paces *paces
	q     *storage.QRSession
}

// NewPacer returns a Pacer for a session opened now.
func NewPacer(now time.Time, limits Limits) *Pacer {
	limits.defaults()
	return &Pacer{newPaces(newPlaces(limits)), &storage.QRSession{OpenedAt: now, Lifetime: storage.QRLifetime, Interval: storage.PollInterval}}
}

// Poll judges and answers a poll that is not held; it raises the interval as Poll does.
func (p *Pacer) Poll(now time.Time) string {
	verdicts := map[verdict]string{onTime: "pending", repeatPending: "pending again", repeatSlowed: "slow_down again", tooEarly: "slow_down"}
	v := p.paces.judge(p.q, now, false)
	if v == tooEarly {
		p.q.Interval += storage.PollInterval
	}
	p.paces.answered(p.q, now, false)
	return verdicts[v]
}

// Held judges a poll that asks to be held and is answered after the given time.
func (p *Pacer) Held(now time.Time, after time.Duration) bool {
	if p.paces.judge(p.q, now, true) != onTime {
		return false
	}
	holding := p.paces.hold(p.q)
	if holding == nil || !p.paces.let(p.q, holding) {
		return false
	}
	p.paces.answered(p.q, now.Add(after), true)
	return true
}

// Hold begins to hold a poll; the channel ends when it is replaced.
func (p *Pacer) Hold(now time.Time) (verdict string, replaced <-chan struct{}) {
	if p.paces.judge(p.q, now, true) != onTime {
		return "early", nil
	}
	return "held", p.paces.hold(p.q)
}

// OpenAndAbandon counts that many openings from networks of their own, a second apart, and
// returns how many are still remembered at the end.
func OpenAndAbandon(sessions int, start time.Time) int {
	open := newOpenSessions[netip.Prefix](300)
	for i := range sessions {
		now := start.Add(time.Duration(i) * time.Second)
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 0}), 24)
		open.take(network, storage.QRID{byte(i), byte(i >> 8), byte(i >> 16)}, now, now.Add(storage.QRLifetime))
	}
	left := 0
	for _, ids := range open.until {
		left += len(ids)
	}
	return left
}
