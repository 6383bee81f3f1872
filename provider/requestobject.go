package provider

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
)

const (
	// mediaRequestObject is that of a request object, and its typ (RFC 9101 §9.4.1, §10.8).
	mediaRequestObject = "application/oauth-authz-req+jwt"
	// maxObject bounds a request object in bytes.
	maxObject = 64 << 10
	// longestObject is how far ahead one may end, objectSkew how far clocks may differ.
	longestObject = time.Hour
	objectSkew    = 10 * time.Second
	// objectsPerMinute bounds how many of those by reference one network can have us read.
	objectsPerMinute = 120
	// maxObjects bounds those by reference that are kept for the pages in between, objectKept for
	// how long: its client may have taken it down since.
	maxObjects = 64
	objectKept = pushedRetention
	// objectHash is a parameter of ours: the pages in between say with it which object was read at
	// the address, so that nobody is asked about one and answers another.
	objectHash = "request_hash"
)

func invalidObject(sentence string, cause error) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_request_object", description: sentence, cause: cause}
}

func invalidObjectURI(sentence string, cause error) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_request_uri", description: sentence, cause: cause}
}

func unsigned() *oauthError {
	return invalidRequest("The client must send its authorization requests as request objects.")
}

// requestObjectAlgs are those that a client may sign request objects with; never none.
func requestObjectAlgs() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.ES256, jose.PS256, jose.EdDSA, jose.RS256}
}

// requestObject returns the parameters that count: those of the request object alone if there is
// one (RFC 9101 §6.3), otherwise those that were sent.
func (p *Provider) requestObject(ctx context.Context, req *authorizeRequest, sent url.Values, arrived bool) (url.Values, error) {
	object, uri := sent.Get("request"), sent.Get("request_uri")
	carried := url.Values{"client_id": {req.client.ID}}
	switch {
	case object != "" && uri != "":
		return nil, invalidRequest("A request and a request_uri were sent.")
	case object != "" && !p.config.RequestObjects:
		return nil, &oauthError{status: http.StatusBadRequest, code: "request_not_supported", description: "Request objects are not supported."}
	case uri != "" && !p.config.RequestURIs:
		return nil, &oauthError{status: http.StatusBadRequest, code: "request_uri_not_supported", description: "Request objects by reference are not supported."}
	case object != "":
		carried.Set("request", object)
	case uri != "":
		var err error
		if object, err = p.objectAt(ctx, req.client, uri, sent.Get(objectHash)); err != nil {
			return nil, err
		}
		carried.Set("request_uri", uri)
		carried.Set(objectHash, hashOfObject(object))
	case req.client.RequireRequestObject:
		return nil, unsigned()
	default:
		return sent, nil
	}
	claims, err := p.openObject(ctx, req.client, object)
	if err != nil {
		return nil, err
	}
	values, err := claims.parameters()
	if err != nil {
		return nil, err
	}
	if !sameResponseType(sent, values) {
		return nil, invalidObject("The response_type is not that of the request object.", nil)
	}
	req.raw, req.signed = carriedQuery(values, carried), true
	if arrived {
		return values, nil
	}
	return values, claims.inTime(p.config.Now(), uri != "", req.raw)
}

// sameResponseType compares what the browser was sent with, for whoever only knows OAuth 2.0, with
// what the client signed (RFC 9101 §5).
func sameResponseType(sent, signed url.Values) bool {
	if !sent.Has("response_type") {
		return true
	}
	outside, _ := parseResponseType(sent.Get("response_type"))
	inside, known := parseResponseType(signed.Get("response_type"))
	return known && outside == inside
}

// objectClaims are the members of a request object.
type objectClaims map[string]json.RawMessage

// openObject checks who signed a request object, and that it is one for us.
func (p *Provider) openObject(ctx context.Context, client fositestore.Client, compact string) (objectClaims, error) {
	algs := requestObjectAlgs()
	if client.RequestObjectAlg != "" {
		algs = slices.DeleteFunc(algs, func(alg jose.SignatureAlgorithm) bool { return alg != algorithmNamed(client.RequestObjectAlg) })
	}
	payload, header, err := p.clientKeys.verify(ctx, client.Client, compact, algs)
	switch {
	case errors.Is(err, fetch.ErrBusy):
		return nil, unavailable(err)
	case err != nil:
		return nil, invalidObject("The request object is not signed by the client.", err)
	case !isRequestObject(header.ExtraHeaders[jose.HeaderType]):
		return nil, invalidObject("The typ of the request object is that of something else.", nil)
	}
	members, err := form.Object(payload)
	if err != nil {
		return nil, invalidObject("The request object is not a JSON object.", err)
	}
	claims := objectClaims(members)
	_, nested := claims["request"]
	_, nestedURI := claims["request_uri"]
	switch {
	case nested || nestedURI:
		return nil, invalidObject("The request object holds another one.", nil)
	case claims.text("iss") != client.ID:
		return nil, invalidObject("The iss of the request object is not the client.", nil)
	case claims.text("client_id") != client.ID:
		return nil, invalidObject("The client_id is not that of the request object.", nil)
	case !slices.Contains(claims.texts("aud"), p.config.Issuer):
		return nil, invalidObject("The aud of the request object is not this issuer.", nil)
	case claims["sub"] != nil:
		// With one it could be the assertion that a client authenticates with (RFC 9101 §10.8).
		return nil, invalidObject("A request object has no sub.", nil)
	}
	return claims, nil
}

// isRequestObject reports whether a header's typ can be that of a request object. An explicit one
// of another kind says that the client signed it for another purpose (RFC 8725 §3.11).
func isRequestObject(typ any) bool {
	if typ == nil {
		return true
	}
	text, _ := typ.(string)
	text = strings.TrimPrefix(strings.ToLower(text), "application/")
	return text == "jwt" || text == strings.TrimPrefix(mediaRequestObject, "application/")
}

// text is a member that is a string; empty for any other.
func (c objectClaims) text(name string) string {
	var text string
	if json.Unmarshal(c[name], &text) != nil {
		return ""
	}
	return text
}

// texts is a member that is a string or a list of strings; nil for any other.
func (c objectClaims) texts(name string) []string {
	if text := c.text(name); text != "" {
		return []string{text}
	}
	var texts []string
	if json.Unmarshal(c[name], &texts) != nil {
		return nil
	}
	return texts
}

// parameters spells the members as a query would have them. Those that mean nothing here are
// ignored, as they are in a query.
func (c objectClaims) parameters() (url.Values, error) {
	values := make(url.Values)
	for _, name := range requestParameters() {
		raw, there := c[name]
		if !there {
			continue
		}
		spelt, ok := []string{c.text(name)}, raw[0] == '"'
		switch name {
		case "max_age":
			if number := string(raw); strings.Trim(number, "0123456789") == "" {
				spelt, ok = []string{number}, true
			}
		case "claims", "registration":
			spelt, ok = []string{string(raw)}, raw[0] == '{'
		case "resource":
			spelt, ok = c.texts(name), ok || raw[0] == '['
		}
		if !ok || slices.ContainsFunc(spelt, func(text string) bool { return !form.Clean(text) }) {
			return nil, invalidObject("A member of the request object has the wrong type.", nil)
		}
		// An empty one counts as left out.
		if spelt = slices.DeleteFunc(spelt, func(text string) bool { return text == "" }); len(spelt) > 0 {
			values[name] = spelt
		}
	}
	return values, nil
}

// inTime judges the object when it comes. One by value must end soon, because whoever has seen it
// once can send it again; one by reference its client can take down itself.
func (c objectClaims) inTime(now time.Time, byReference bool, raw string) error {
	exp, hasExp, errExp := c.instant("exp")
	nbf, hasNbf, errNbf := c.instant("nbf")
	iat, hasIat, errIat := c.instant("iat")
	switch {
	case errors.Join(errExp, errNbf, errIat) != nil:
		return invalidObject("A member of the request object has the wrong type.", nil)
	case !hasExp && !byReference:
		return invalidObject("The request object has no exp.", nil)
	case hasExp && exp.Sub(now) > longestObject:
		return invalidObject("The exp of the request object is too far ahead.", nil)
	case hasNbf && nbf.Sub(now) > objectSkew, hasIat && iat.Sub(now) > objectSkew:
		return invalidObject("The request object is not good yet.", nil)
	case hasExp && !now.Before(exp):
		return invalidObject("The request object has expired.", &lateRequest{raw})
	}
	return nil
}

// instant is a NumericDate (RFC 7519 §2).
func (c objectClaims) instant(name string) (at time.Time, there bool, err error) {
	raw, there := c[name]
	if !there {
		return time.Time{}, false, nil
	}
	var seconds float64
	// What is further away than time.Time tells apart is as good as for ever.
	if err := json.Unmarshal(raw, &seconds); err != nil || string(raw) == "null" || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, true, errors.New("provider: no NumericDate")
	}
	return time.UnixMilli(int64(seconds * 1000)), true, nil
}

func hashOfObject(object string) string {
	sum := sha256.Sum256([]byte(object))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// objectAt reads the request object at an address that the client registered (RFC 9101 §5.2). With
// a hash, which the pages in between carry, it must be the one that was read before.
func (p *Provider) objectAt(ctx context.Context, client fositestore.Client, uri, hash string) (string, error) {
	if !slices.Contains(client.RequestURIs, uri) {
		return "", invalidObjectURI("The request_uri is not one the client registered.", nil)
	}
	if object, ok := p.objects.get(client.ID, uri, hash, p.config.Now()); ok {
		return object, nil
	}
	address, _ := ctx.Value(discoveryKey{}).(netip.Addr)
	if wait := p.objectReads.take(address, p.config.Now()); wait > 0 {
		return "", tooMany(wait, "Too many request objects were asked for from this network.")
	}
	document, err := p.fetcher.Get(ctx, uri, maxObject, mediaRequestObject, mediaJWT)
	if errors.Is(err, fetch.ErrBusy) {
		return "", unavailable(err)
	}
	if err != nil {
		return "", invalidObjectURI("There is no request object at the request_uri.", err)
	}
	object := strings.TrimSpace(string(document.Body))
	if hash != "" && hash != hashOfObject(object) {
		return "", invalidObjectURI("The request object has changed.", nil)
	}
	p.objects.put(client.ID, uri, object, p.config.Now())
	return object, nil
}

// objectCache keeps request objects for the pages in between: their clients may make a new one
// for everybody who asks. Its zero value is empty.
type objectCache struct {
	mu      sync.Mutex
	entries map[objectKey]objectEntry
}

type objectKey struct{ client, uri, hash string }

type objectEntry struct {
	object string
	at     time.Time
}

func (c *objectCache) get(client, uri, hash string, now time.Time) (string, bool) {
	if hash == "" {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[objectKey{client, uri, hash}]
	return e.object, ok && now.Before(e.at.Add(objectKept))
}

// put keeps an object in place of the one that was kept the longest when there are too many.
func (c *objectCache) put(client, uri, object string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[objectKey]objectEntry)
	}
	var oldest objectKey
	for key, e := range c.entries {
		if oldest == (objectKey{}) || e.at.Before(c.entries[oldest].at) {
			oldest = key
		}
	}
	if len(c.entries) >= maxObjects {
		delete(c.entries, oldest)
	}
	c.entries[objectKey{client, uri, hashOfObject(object)}] = objectEntry{object, now}
}
