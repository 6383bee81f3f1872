package provider

import (
	"encoding/hex"
	"net/http"
	"strings"
	"time"
)

const (
	// knownCookie says as whom people have signed in with this browser, in words that only we can
	// write and that tell nobody who they are. It opens nothing: it lets the guard count the tries
	// of this browser apart from those of strangers.
	knownCookie = "qrgrant-known"
	// knownLifetime is how long that lasts after the last sign-in.
	knownLifetime = 180 * 24 * time.Hour
	// mostKnown are the people of one browser; the one who signed in last stands first.
	mostKnown       = 4
	knownSeparator  = "~"
	knownIDLength   = 22
	longestKnown    = mostKnown * 128
	longestOfKnown  = 128
	knownSealSpacer = " "
)

// knownPayload is what the seal of an entry is over.
func knownPayload(id string, who account) string {
	return id + knownSealSpacer + hex.EncodeToString(who[:])
}

// knownBrowser returns the id of a browser in which this person has signed in before, or nothing.
func (p *Provider) knownBrowser(r *http.Request, who account) string {
	for _, entry := range p.knownEntries(r) {
		if id, ok := p.openKnown(entry, who); ok {
			return id
		}
	}
	return ""
}

// knownEntries are those of the cookie, as the browser sent them.
func (p *Provider) knownEntries(r *http.Request) []string {
	c, err := r.Cookie(p.cookieName(knownCookie))
	if err != nil || c.Value == "" || len(c.Value) > longestKnown {
		return nil
	}
	entries := strings.SplitN(c.Value, knownSeparator, mostKnown+1)
	return entries[:min(len(entries), mostKnown)]
}

func (p *Provider) openKnown(entry string, who account) (id string, ok bool) {
	id, seal, _ := strings.Cut(entry, ".")
	if len(id) != knownIDLength {
		return "", false
	}
	at, err := p.sealedAt(&browser{}, knownCookie, knownPayload(id, who), seal)
	if err != nil {
		return "", false
	}
	age := p.config.Now().Sub(at)
	return id, age >= -time.Minute && age < knownLifetime
}

// rememberBrowser notes that this person has signed in here. What the browser notes of others it
// keeps: whether that is true is looked at when they try.
func (p *Provider) rememberBrowser(w http.ResponseWriter, r *http.Request, who account) error {
	id := p.knownBrowser(r, who)
	if id == "" {
		random, err := p.secret()
		if err != nil {
			return err
		}
		id = random[:knownIDLength] // 132 bits
	}
	seal, err := p.sealForm(&browser{}, knownCookie, knownPayload(id, who))
	if err != nil {
		return err
	}
	entries := []string{id + "." + seal}
	for _, other := range p.knownEntries(r) {
		if _, mine := p.openKnown(other, who); !mine && len(entries) < mostKnown && len(other) < longestOfKnown {
			entries = append(entries, other)
		}
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // G124: a browser drops a Secure cookie of a plain loopback page.
		Name: p.cookieName(knownCookie), Value: strings.Join(entries, knownSeparator), Path: "/", MaxAge: int(knownLifetime / time.Second),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: p.issuer.Scheme == "https",
	})
	return nil
}
