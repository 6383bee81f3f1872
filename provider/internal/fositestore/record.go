package fositestore

import (
	"fmt"
	"net/url"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/ory/fosite"

	"github.com/qrgrant/qrgrant/storage"
)

// recordVersion is written into every record; a reader refuses what it does not know rather
// than issue tokens from half-understood facts.
const recordVersion = 1

// Facts is what is known of the sign-in behind a token. They are copied from artefact to
// artefact, so that what the person approved is what the last refresh still says.
type Facts struct {
	// Subject is empty for client-credentials tokens.
	Subject string `cbor:"1,keyasint,omitempty"`
	// SessionID is the sid; ParentID that of the phone's session behind a QR-born one.
	SessionID string `cbor:"2,keyasint,omitempty"`
	ParentID  string `cbor:"3,keyasint,omitempty"`
	// ApproverID is the client of the phone app that approved.
	ApproverID string `cbor:"4,keyasint,omitempty"`
	// QRBorn is the mark of protocol §8.
	QRBorn   bool      `cbor:"5,keyasint,omitempty"`
	AuthTime time.Time `cbor:"6,keyasint,omitzero"`
	AMR      []string  `cbor:"7,keyasint,omitempty"`
	ACR      string    `cbor:"8,keyasint,omitempty"`
	// Nonce is kept with the code only: an ID token of a refresh carries none.
	Nonce string `cbor:"9,keyasint,omitempty"`
	// FamilyEnd is when the last refresh token of the family expires; zero before the first.
	FamilyEnd time.Time `cbor:"10,keyasint,omitzero"`
	// UserinfoClaims and IDTokenClaims are those asked for by name, beside the scopes' own.
	UserinfoClaims []string `cbor:"11,keyasint,omitempty"`
	IDTokenClaims  []string `cbor:"12,keyasint,omitempty"`
	// JKT is the thumbprint of the DPoP key the artefact is bound to (RFC 9449 §6); empty: none.
	JKT string `cbor:"13,keyasint,omitempty"`
	// AccessAudience, when set, is the audience of this access token, while the refresh token beside
	// it keeps all that was granted (RFC 8707 §2.2). Never stored.
	AccessAudience []string `cbor:"-"`
	// RefreshScopes, when set, are the scopes of the next refresh token while the access
	// token beside it got fewer (RFC 6749 §6). Never stored.
	RefreshScopes []string `cbor:"-"`

	// rotation is the refresh token that this request brought; nil when it brought none.
	rotation *rotation
}

// Reissue reports whether the request asks again for an answer that was lost.
func (f *Facts) Reissue() bool { return f.rotation != nil && f.rotation.lost != nil }

// Session is what this package needs of a fosite session.
type Session interface {
	fosite.Session
	// Facts returns the session's facts; the caller may change them.
	Facts() *Facts
}

// record is storage.Token.Data.
type record struct {
	Version     uint8     `cbor:"1,keyasint"`
	Facts       Facts     `cbor:"2,keyasint"`
	Requested   []string  `cbor:"3,keyasint,omitempty"`
	Granted     []string  `cbor:"4,keyasint,omitempty"`
	Audience    []string  `cbor:"5,keyasint,omitempty"`
	RedirectURI string    `cbor:"6,keyasint,omitempty"`
	Challenge   string    `cbor:"7,keyasint,omitempty"`
	IssuedAt    time.Time `cbor:"8,keyasint"`
}

func encode(r *record) ([]byte, error) {
	r.Version = recordVersion
	data, err := cbor.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("fositestore: encode: %w", err)
	}
	return data, nil
}

func decode(data []byte) (*record, error) {
	var r record
	if err := cbor.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("fositestore: decode: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("fositestore: record version %d is unknown", r.Version)
	}
	return &r, nil
}

// Grant is a stored artefact with its record decoded.
type Grant struct {
	storage.Token
	Facts    Facts
	Scopes   []string
	Audience []string
	IssuedAt time.Time
}

// form is the part of the request form that fosite reads back from a stored code.
func (r *record) form() url.Values {
	form := make(url.Values, 2)
	if r.RedirectURI != "" {
		form.Set("redirect_uri", r.RedirectURI)
	}
	if r.Challenge != "" {
		form.Set("code_challenge", r.Challenge)
	}
	return form
}
