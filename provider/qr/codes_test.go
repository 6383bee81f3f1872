package qr_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/qrgrant/qrgrant/provider/qr"
)

const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// D29: separators and case are forgiven, and nothing else becomes a code.
func TestD29UserCodeEntryIsForgiving(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{"BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "b.c.d.f.g.h.j.k", "BCDF–GHJK", "bcdf_ghjk\n"} {
		if code, ok := qr.NormalizeUserCode(typed); !ok || code != "BCDFGHJK" {
			t.Errorf("NormalizeUserCode(%q) = %q, %v", typed, code, ok)
		}
	}
	for _, typed := range []string{"", "BCDF-GHJ", "BCDF-GHJK-L", "AEIOUY01", strings.Repeat("-", 60) + "BCDFGHJK"} {
		if code, ok := qr.NormalizeUserCode(typed); ok {
			t.Errorf("NormalizeUserCode(%q) = %q, want refused", typed, code)
		}
	}
}

func FuzzUserCode(f *testing.F) {
	f.Add("BCDF-GHJK")
	f.Add("ｂｃｄｆ")
	f.Fuzz(func(t *testing.T, typed string) {
		code, ok := qr.NormalizeUserCode(typed)
		if !ok {
			return
		}
		if len(code) != 8 || strings.Trim(code, userCodeAlphabet) != "" {
			t.Errorf("NormalizeUserCode(%q) = %q", typed, code)
		}
		if again, ok := qr.NormalizeUserCode(code[:4] + "-" + code[4:]); !ok || again != code {
			t.Errorf("%q does not survive being shown", code)
		}
	})
}

// T03: letters are even, so a code has all of its 34.6 bits.
func TestT03UserCodeLettersAreUniform(t *testing.T) {
	t.Parallel()
	const codes = 12_500
	var seen [256]int
	for range codes {
		code, err := qr.NewUserCode(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(code) {
			seen[code[i]]++
		}
	}
	want := float64(codes*8) / float64(len(userCodeAlphabet))
	chi := 0.0
	for _, letter := range userCodeAlphabet {
		d := float64(seen[letter]) - want
		chi += d * d / want
	}
	// 19 degrees of freedom: a fair source exceeds 60 once in 2 million runs.
	if chi > 60 {
		t.Errorf("chi square = %.1f over %v", chi, seen)
	}
}

func TestPreferWait(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		headers []string
		want    int
	}{
		{"no header", nil, 0},
		{"a wait in bounds", []string{"wait=10"}, 10},
		{"the lower bound", []string{"wait=5"}, 5},
		{"less is no preference", []string{"wait=4"}, 0},
		{"more counts as 25", []string{"wait=3600"}, 25},
		{"among other preferences", []string{"respond-async, wait=20; foo"}, 20},
		{"in a second header", []string{"return=minimal", "Wait = 7"}, 7},
		{"no number", []string{"wait=soon"}, 0},
		{"negative", []string{"wait=-10"}, 0},
		{"more than a number holds", []string{"wait=99999999999999999999"}, 25},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if got := qr.PreferredWait(row.headers); got != row.want {
				t.Errorf("PreferredWait(%q) = %d, want %d", row.headers, got, row.want)
			}
		})
	}
}

// T25: client text cannot reorder, hide or break what the person reads.
func FuzzT25ClientText(f *testing.F) {
	f.Add("Room 4\u202e evil\r\n\x00\u200bhttps://x")
	f.Add("👩‍👩‍👧 family TV")
	f.Fuzz(func(t *testing.T, text string) {
		got := qr.CleanText(text, 64)
		if utf8.RuneCountInString(got) > 64 || !utf8.ValidString(got) {
			t.Errorf("CleanText(%q) = %q", text, got)
		}
		for _, r := range got {
			if r != ' ' && !unicode.IsPrint(r) {
				t.Errorf("CleanText(%q) keeps %U", text, r)
			}
		}
	})
}

// Nothing of a User-Agent header is shown as it is.
func FuzzUserAgent(f *testing.F) {
	f.Add("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36")
	f.Add("<script>evil</script>")
	f.Fuzz(func(t *testing.T, header string) {
		if got := qr.DescribeUserAgent(header); strings.ContainsAny(got, "<>/;()") || got == "" || len(got) > 40 {
			t.Errorf("DescribeUserAgent(%q) = %q", header, got)
		}
	})
}
