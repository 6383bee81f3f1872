package player

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/coreos/go-oidc/v3/oidc"
)

// The grant types of the direct door (protocol §1).
const (
	// GrantQR is the QR grant.
	GrantQR = "urn:qrgrant:params:oauth:grant-type:qr_code"
	// GrantDevice is the device grant of RFC 8628.
	GrantDevice = "urn:ietf:params:oauth:grant-type:device_code"
)

// configuration is `<issuer>/.well-known/qr-configuration` as far as the players need it.
type configuration struct {
	Issuer           string `json:"issuer"`
	ScanEndpoint     string `json:"scan_endpoint"`
	DecisionEndpoint string `json:"decision_endpoint"`
	CancelEndpoint   string `json:"cancel_endpoint"`
	PayloadPrefix    string `json:"payload_prefix"`
}

// discoverQR reads the QR metadata and refuses one that speaks for another issuer.
func discoverQR(ctx context.Context, client *http.Client, issuer string) (*configuration, error) {
	var found configuration
	if err := getJSON(ctx, client, issuer+"/.well-known/qr-configuration", &found); err != nil {
		return nil, fmt.Errorf("read the QR metadata of %s: %w", issuer, err)
	}
	if found.Issuer != issuer {
		return nil, fmt.Errorf("%s says it is the issuer %q; use exactly that as the issuer", issuer, found.Issuer)
	}
	return &found, nil
}

// discoverOIDC reads the OpenID Connect metadata through go-oidc.
func discoverOIDC(ctx context.Context, client *http.Client, issuer string) (*oidc.Provider, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	var mismatch *oidc.IssuerMismatchError
	var transport *url.Error
	switch {
	case err == nil:
		return provider, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &mismatch):
		return nil, fmt.Errorf("%s says it is the issuer %q; use exactly that as the issuer", issuer, mismatch.Discovered)
	case errors.As(err, &transport):
		return nil, &UnreachableError{Origin: issuer, Err: err}
	default:
		// What the library says holds the whole answer, which may be a web page.
		return nil, fmt.Errorf("%s does not answer as an OpenID provider; check the issuer", issuer)
	}
}
