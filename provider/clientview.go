package provider

import (
	"errors"
	"net/url"
	"strings"

	"github.com/qrgrant/qrgrant/storage"
)

// LongestShownURI is how many bytes a URI may have that people are shown of a client.
const LongestShownURI = 2048

// CheckShownURI returns an error when a client's logo, site, policy or terms (OpenID Connect
// Dynamic Client Registration 1.0 §2) is never shown, though it be registered. It is an absolute
// URL without user, fragment and space, of at most LongestShownURI bytes, and http only on a
// loopback host. Its host is a name or an IPv4 address in ASCII, because the origin of a logo
// stands in the page's content security policy, which has no words for anything else.
func CheckShownURI(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > LongestShownURI || strings.ContainsFunc(raw, unfitForURI):
		return errors.New("provider: a URI that people are shown is a short one, in printable ASCII")
	case u.User != nil || u.Opaque != "" || strings.Contains(raw, "#"):
		return errors.New("provider: a URI that people are shown has no user and no fragment")
	case u.Hostname() == "" || strings.Trim(u.Hostname(), hostCharacters) != "" || strings.HasSuffix(u.Host, ":"):
		return errors.New("provider: a URI that people are shown has the plain name of a host")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		return errors.New("provider: a URI that people are shown is https, or http on a loopback host")
	}
	return nil
}

// hostCharacters are those of a host in a content security policy (CSP Level 3 §2.3.1).
const hostCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."

// unfitForURI: a browser removes or re-reads them, and then it is another address (RFC 3986 §2).
func unfitForURI(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"<>\\^`{|}", r)
}

// clientView is what a page shows of a client beside its name; what is empty is not shown.
type clientView struct {
	Logo, Site, Policy, Terms string
}

// viewClient leaves out what must not be shown, whoever put it into the store.
func viewClient(c *storage.Client) clientView {
	shown := func(raw string) string {
		if CheckShownURI(raw) != nil {
			return ""
		}
		return raw
	}
	return clientView{Logo: shown(c.LogoURI), Site: shown(c.ClientURI), Policy: shown(c.PolicyURI), Terms: shown(c.TermsURI)}
}

// imagesOf is a page's content security policy with the origin of the logo in it. The browser
// gets the picture from the client itself, without a referrer, and from nowhere else: not even a
// redirect may lead it on.
func (v clientView) imagesOf(policy string) string {
	if v.Logo == "" {
		return policy
	}
	u, err := url.Parse(v.Logo)
	if err != nil { // CheckShownURI has parsed it
		return policy
	}
	return strings.Replace(policy, imageSources, imageSources+" "+redirectOrigin(u), 1)
}
