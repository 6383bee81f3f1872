package player_test

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/qr"
)

const issuer = "https://id.example"

func TestReadReference(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       player.Reference
		fault      string
	}{
		{"the text of a QR code goes on as it is", issuer + "/Q#1ABC", player.Reference{Payload: issuer + "/Q#1ABC", Entry: "scanner"}, ""},
		{"white space around it is not part of it", " " + issuer + "/Q#1ABC\n", player.Reference{Payload: issuer + "/Q#1ABC", Entry: "scanner"}, ""},
		{"a link with the user code is a payload too", issuer + "/device?user_code=BCDF-GHJK", player.Reference{Payload: issuer + "/device?user_code=BCDF-GHJK", Entry: "scanner"}, ""},
		{"a typed code may be in any case and with any separators", "bcdf ghjk", player.Reference{UserCode: "BCDF-GHJK", Entry: "typed"}, ""},
		{"a typed code may have no separator", "BCDFGHJK", player.Reference{UserCode: "BCDF-GHJK", Entry: "typed"}, ""},
		{"a code with a vowel is none", "ABCD-FGHJ", player.Reference{}, "neither"},
		{"a code that is too long is none", "BCDF-GHJKL", player.Reference{}, "neither"},
		{"another server is refused", "https://evil.example/Q#1ABC", player.Reference{}, "another server"},
		{"a longer host is another server", issuer + ".evil.example/Q#1ABC", player.Reference{}, "another server"},
		{"a user part before the host is another server", "https://id.example@evil.example/Q#1ABC", player.Reference{}, "another server"},
		{"another scheme is another server", "http://id.example/Q#1ABC", player.Reference{}, "another server"},
		{"the spelling of the host counts", "https://ID.example/Q#1ABC", player.Reference{}, "another server"},
		{"another page of the server is no code", issuer + "/logout", player.Reference{}, "not a sign-in code"},
		{"nothing is no code", "", player.Reference{}, "neither"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := player.ReadReference(issuer, test.text)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Fatalf("error %v, want one with %q", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzReadReference(f *testing.F) {
	f.Add(issuer + "/Q#1ABC")
	f.Add("bcdf-ghjk")
	f.Add("https://id.example@evil.example/Q#")
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := player.ReadReference(issuer, text)
		switch {
		case err != nil && ref != player.Reference{}:
			t.Fatalf("%q is refused but gives %+v", text, ref)
		case err == nil && ref.Payload != "" && !strings.HasPrefix(ref.Payload, issuer+"/"):
			t.Fatalf("%q is accepted for another server", text)
		case err == nil && (ref.Payload == "") == (ref.UserCode == ""):
			t.Fatalf("%q gives %+v", text, ref)
		}
	})
}

func TestDecodePixelsReadsWhatTheServerDraws(t *testing.T) {
	t.Parallel()
	// Many drawings, since a detector fails on few.
	for range 100 {
		payload := issuer + "/Q#1" + rand.Text() + "AA" + rand.Text()[:16]
		picture, err := qr.PNG(payload)
		if err != nil {
			t.Fatal(err)
		}
		got, err := player.DecodePixels("data:image/png;base64," + base64.StdEncoding.EncodeToString(picture))
		if err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		if got != payload {
			t.Errorf("the pixels say %q", got)
		}
		if got, err := player.IssuerOf(got); err != nil || got != issuer {
			t.Errorf("issuer %q, %v", got, err)
		}
	}
}

func TestDecodePixelsRefusesWhatIsNoCode(t *testing.T) {
	t.Parallel()
	for _, picture := range []string{"", "data:image/svg+xml;base64,AAAA", "data:image/png;base64,!", "data:image/png;base64,AAAA"} {
		if _, err := player.DecodePixels(picture); err == nil {
			t.Errorf("%q was read", picture)
		}
	}
	if _, err := player.IssuerOf("not a code"); err == nil {
		t.Error("an issuer was found in no code")
	}
}
