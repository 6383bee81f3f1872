package storage_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/storage"
)

func TestParseQRIDRefuses(t *testing.T) {
	t.Parallel()
	right := storage.QRID{1, 2, 3}.String()
	for name, text := range map[string]string{
		"nothing":             "",
		"too little":          right[:25],
		"too much":            right + "A",
		"lower case":          strings.ToLower(right),
		"padding":             right + "======",
		"a line break inside": right[:10] + "\n" + right[10:],
		"bits that are lost":  right[:25] + "B",
		"another alphabet":    "0" + right[1:],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if id, err := storage.ParseQRID(text); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("ParseQRID(%q) = %v, %v", text, id, err)
			}
		})
	}
}

// FuzzParseQRID checks that a reference has one spelling, and that this one comes back.
func FuzzParseQRID(f *testing.F) {
	f.Add("AEBAGBAFAYDQQCIKBMGA2DQPCA", []byte{1})
	f.Add("", []byte(nil))
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAB", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, text string, raw []byte) {
		if id, err := storage.ParseQRID(text); err == nil && id.String() != text {
			t.Errorf("%q was read as %q", text, id)
		}
		var id storage.QRID
		copy(id[:], raw)
		back, err := storage.ParseQRID(id.String())
		if err != nil || back != id {
			t.Errorf("%v came back as %v, %v", id, back, err)
		}
		if len(id.Hash()) != 16 || strings.Contains(id.String(), id.Hash()) {
			t.Errorf("hash %q", id.Hash())
		}
	})
}
