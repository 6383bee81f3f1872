package qr

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

const (
	// FrameLifetime is how long a frame is the current one; the previous one is accepted too.
	FrameLifetime = 10 * time.Second

	frameVersion = "1"
	refLength    = 26
	countLength  = 2
	tagLength    = 16
	countBits    = 10
	// maxLifetime keeps k from coming round: a wrapped count would make an old frame fresh.
	maxLifetime  = (1<<countBits - 2) * FrameLifetime
	base32Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
)

// frame is what a scanned QR code says, once its form has been checked.
type frame struct {
	id    storage.QRID
	count int
	tag   string
}

// payloadPrefix is everything before the reference in a QR code of this issuer. The issuer
// is spelt as configured, because app links compare case.
func payloadPrefix(issuer string) string { return issuer + "/Q#" + frameVersion }

// frameCount is k: the number of whole frame lifetimes since the opening.
func frameCount(opened, now time.Time) int {
	return int(now.Sub(opened)/FrameLifetime) & (1<<countBits - 1)
}

// payload draws the frame that is current at now. Any replica with the key makes the same one.
func (k *serverKey) payload(issuer string, q *storage.QRSession, now time.Time) (string, error) {
	ref, count := q.ID.String(), showCount(frameCount(q.OpenedAt, now))
	tag, err := k.frameTag(issuer, ref, count)
	if err != nil {
		return "", err
	}
	return payloadPrefix(issuer) + ref + count + tag, nil
}

// frameTag signs a frame: HMAC-SHA256 over the characters as shown, cut to 80 bits, under a
// key of the session's own (protocol §2).
func (k *serverKey) frameTag(issuer, ref, count string) (string, error) {
	key, err := hkdf.Expand(sha256.New, k.frames, "qr1|"+ref, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("qr: derive frame key: %w", err)
	}
	tag := mac(key, "qr1|", issuer, "|", ref, "|", count)[:10]
	return base32.StdEncoding.EncodeToString(tag), nil // 80 bits need no padding
}

// genuine reports in constant time whether the frame was signed with this key.
func (k *serverKey) genuine(issuer string, f frame) bool {
	tag, err := k.frameTag(issuer, f.id.String(), showCount(f.count))
	return err == nil && subtle.ConstantTimeCompare([]byte(tag), []byte(f.tag)) == 1
}

// fresh reports whether the frame is the current or the previous one.
func (f frame) fresh(q *storage.QRSession, now time.Time) bool {
	age := frameCount(q.OpenedAt, now) - f.count
	return age == 0 || age == 1
}

// rotateIn is the time until the next frame is due.
func rotateIn(q *storage.QRSession, now time.Time) time.Duration {
	return FrameLifetime - now.Sub(q.OpenedAt)%FrameLifetime
}

// parseFrame reads the whole scanned text. Anything but the one canonical spelling is refused.
func parseFrame(issuer, text string) (frame, bool) {
	body, ok := strings.CutPrefix(text, payloadPrefix(issuer))
	if !ok || len(body) != refLength+countLength+tagLength {
		return frame{}, false
	}
	id, err := storage.ParseQRID(body[:refLength])
	if err != nil {
		return frame{}, false
	}
	high := strings.IndexByte(base32Digits, body[refLength])
	low := strings.IndexByte(base32Digits, body[refLength+1])
	if high < 0 || low < 0 {
		return frame{}, false
	}
	return frame{id: id, count: high<<5 | low, tag: body[refLength+countLength:]}, true
}

func showCount(count int) string {
	return string([]byte{base32Digits[count>>5&31], base32Digits[count&31]})
}
