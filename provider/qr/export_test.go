package qr

import (
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
