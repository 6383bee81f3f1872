package dpop

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/jws"
)

const (
	// typ is that of every proof (RFC 9449 §4.2).
	typ = "dpop+jwt"
	// An RSA key has at least minRSA bits (RFC 7518 §3.5); one of more than maxRSA is there to
	// cost time.
	minRSA, maxRSA = 2048, 4096
	// maxIssued is a time in seconds that no clock will show: year 36812.
	maxIssued = 1 << 40
)

// Algorithms are those a proof may be signed with, as metadata lists them.
func Algorithms() []string { return []string{"ES256", "ES384", "EdDSA", "Ed25519", "PS256"} }

func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256}
}

// claims is what a proof says (RFC 9449 §4.2).
type claims struct {
	id, method, url string
	issued          time.Time
	hash, nonce     string
}

// open checks the form of a proof and its signature by the key in its own header, and returns the
// thumbprint of that key.
func open(proof string) (jkt string, c claims, err error) {
	// The base64 decoder would skip line breaks.
	if strings.Trim(proof, base64URLDigits+".") != "" {
		return "", c, errors.New("no compact serialisation")
	}
	parsed, err := jws.Parse(proof, algorithms())
	if err != nil {
		return "", c, err
	}
	protected, _, _ := strings.Cut(proof, ".")
	key := parsed.Signatures[0].Protected.JSONWebKey
	if err := checkHeader(protected, key); err != nil {
		return "", c, err
	}
	payload, err := jws.Verify(parsed, proof, key)
	if err != nil {
		return "", c, err
	}
	if c, err = readClaims(payload); err != nil {
		return "", c, err
	}
	sum, err := key.Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), c, err
}

// base64URLDigits are the characters of base64url (RFC 4648 §5).
const base64URLDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

func checkHeader(protected string, key *jose.JSONWebKey) error {
	raw, err := base64.RawURLEncoding.DecodeString(protected)
	if err != nil {
		return err
	}
	header, err := object(raw)
	if err != nil {
		return err
	}
	if kind, err := text(header, "typ"); err != nil || kind != typ {
		return errors.New("another typ")
	}
	// What a proof says is critical is nothing that we know (RFC 7515 §4.1.11). A private key that
	// stands in a proof is everybody's (RFC 9449 §4.2).
	if header["crit"] != nil || key == nil || !key.Valid() || !key.IsPublic() {
		return errors.New("no public key, or critical extensions")
	}
	if !rightLength(key.Key) {
		return errors.New("an RSA key of another length")
	}
	return nil
}

// rightLength is true for every key that is not RSA: curves belong to algorithms.
func rightLength(public any) bool {
	key, ok := public.(*rsa.PublicKey)
	return !ok || key.N.BitLen() >= minRSA && key.N.BitLen() <= maxRSA
}

func readClaims(payload []byte) (c claims, err error) {
	members, err := object(payload)
	if err != nil {
		return c, err
	}
	for name, value := range map[string]*string{"jti": &c.id, "htm": &c.method, "htu": &c.url, "ath": &c.hash, "nonce": &c.nonce} {
		if *value, err = text(members, name); err != nil {
			return c, err
		}
	}
	seconds, err := strconv.ParseFloat(string(members["iat"]), 64)
	if err != nil || seconds < 0 || seconds > maxIssued {
		return c, errors.New("no iat, or none that is a time")
	}
	c.issued = time.Unix(int64(seconds), 0)
	return c, nil
}

// text is a member that is a string; empty when it is missing.
func text(members map[string]json.RawMessage, name string) (string, error) {
	raw, ok := members[name]
	if !ok {
		return "", nil
	}
	var value *string
	if err := json.Unmarshal(raw, &value); err != nil || value == nil {
		return "", errors.New("a member that is no string: " + name)
	}
	return *value, nil
}

// object reads a JSON object and nothing behind it. A name that stands twice in it or in anything
// inside it is refused (RFC 7515 §4): two readers could take another one each.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	// 1e999 is JSON, and no float64.
	d.UseNumber()
	if err := walk(d); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something behind the object")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, err
	}
	if members == nil {
		return nil, errors.New("no object")
	}
	return members, nil
}

// walk reads one value.
func walk(d *json.Decoder) error {
	token, err := d.Token()
	opening, nested := token.(json.Delim)
	if err != nil || !nested {
		return err
	}
	names := make(map[any]bool)
	for d.More() {
		if opening == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			if names[name] {
				return errors.New("a name that stands twice")
			}
			names[name] = true
		}
		if err := walk(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
