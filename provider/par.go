package provider

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// pushedPrefix is what the request_uri of every pushed request begins with (RFC 9126 §2.2).
	pushedPrefix = "urn:ietf:params:oauth:request_uri:"
	// pushedLifetime is how long one can be taken to /authorize.
	pushedLifetime = 5 * time.Minute
	// pushedRetention is how long it is kept after that for the pages in between: somebody who
	// signs in and then thinks about the consent.
	pushedRetention = formLifetime + consentLifetime
	// longestPushed bounds what is stored of one, in bytes.
	longestPushed = 16 << 10
	// pushedVersion is written into every record; a reader refuses what it does not know.
	pushedVersion = 1
)

// pushLimits bounds what is stored before any person was asked: of clients that anybody can be by
// network, of any other by client.
type pushLimits struct {
	networks *networkLimits
	clients  *minuteLimits[string]
}

func newPushLimits(c *Config) *pushLimits {
	return &pushLimits{networks: newNetworkLimits(c.PushesPerMinute), clients: newMinuteLimits[string](c.ClientPushesPerMinute)}
}

// pushedAnswer is the answer of POST /par (RFC 9126 §2.2).
type pushedAnswer struct {
	RequestURI       string `json:"request_uri"`
	ExpiresInSeconds int64  `json:"expires_in"`
}

// pushedRecord is storage.Token.Data of a pushed request.
type pushedRecord struct {
	Version uint8      `cbor:"1,keyasint"`
	Values  url.Values `cbor:"2,keyasint"`
	// Signed says that the parameters came as a request object.
	Signed bool `cbor:"3,keyasint,omitempty"`
}

// requestParameters are the parameters of an authorization request that mean something here.
// No others are stored of one that is pushed, least of all what the client authenticated with.
func requestParameters() []string {
	return []string{
		"client_id", "response_type", "response_mode", "redirect_uri", "scope", "state", "nonce",
		"code_challenge", "code_challenge_method", "dpop_jkt", "resource", "prompt", "max_age", "acr_values",
		"login_hint", "id_token_hint", "claims", "claims_locales", "ui_locales", "display", "registration",
	}
}

// par is POST /par: an authenticated client leaves its authorization request here and gets a name
// for it that it sends the browser with (RFC 9126). What /authorize would refuse is refused here,
// and so is what comes more often than Config allows.
func (p *Provider) par(w http.ResponseWriter, r *http.Request) {
	uri := ""
	req, err := p.readPushed(w, r)
	if err == nil {
		uri, err = p.push(r.Context(), req)
	}
	if err != nil {
		p.writeError(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, pushedAnswer{RequestURI: uri, ExpiresInSeconds: int64(pushedLifetime / time.Second)})
}

// readPushed reads and judges a request that is pushed.
func (p *Provider) readPushed(w http.ResponseWriter, r *http.Request) (*authorizeRequest, error) {
	values, err := form.Read(w, r)
	if err != nil {
		return nil, err
	}
	client, err := p.authenticatedClient(r.Context(), r, values)
	if err != nil {
		return nil, err
	}
	if err := p.mayPush(r, client); err != nil {
		return nil, err
	}
	if values.Has("request_uri") {
		return nil, invalidRequest("A request_uri cannot be pushed.")
	}
	jkt, err := p.prove(w, r, "")
	if err != nil {
		return nil, err
	}
	// The client may have named itself in the header or in its assertion alone.
	values.Set("client_id", client.ID)
	req := &authorizeRequest{client: client}
	sent, err := p.requestObject(r.Context(), req, values, false)
	if err != nil {
		return nil, err
	}
	if !sent.Has("redirect_uri") {
		return nil, invalidRequest("The redirect_uri is missing.")
	}
	if err := bindToProof(sent, jkt); err != nil {
		return nil, err
	}
	return p.readAuthorize(r.Context(), req, sent, nil)
}

// mayPush counts the network of a client that is nobody in particular: one without a secret, or one
// that anybody can register. What it leaves here is stored before any person was asked (RFC 9126
// §2.3 has the answer). A client to which the operator gave its credential is counted by itself,
// for everybody who signs in to it may come from the one address of its server.
func (p *Provider) mayPush(r *http.Request, client fositestore.Client) error {
	now := p.config.Now()
	if !client.Public() && client.Source == storage.ClientConfigured {
		if wait := p.pushes.clients.take(client.ID, now); wait > 0 {
			return tooMany(wait, "The client has pushed too many requests.")
		}
		return nil
	}
	if wait := p.pushes.networks.take(p.clientAddress(r), now); wait > 0 {
		return tooMany(wait, "Too many requests were pushed from this network.")
	}
	return nil
}

// bindToProof lets a proof at /par say what dpop_jkt says (RFC 9449 §10.1).
func bindToProof(values url.Values, jkt string) error {
	if jkt == "" {
		return nil
	}
	if named := values.Get("dpop_jkt"); named != "" && named != jkt {
		return &oauthError{status: http.StatusBadRequest, code: dpop.CodeInvalidProof, description: "The dpop_jkt is not that of the key of the DPoP proof."}
	}
	values.Set("dpop_jkt", jkt)
	return nil
}

// push stores a request and returns its name.
func (p *Provider) push(ctx context.Context, req *authorizeRequest) (uri string, err error) {
	name, err := p.secret()
	if err != nil {
		return "", err
	}
	record := pushedRecord{Version: pushedVersion, Values: make(url.Values), Signed: req.signed}
	for _, parameter := range requestParameters() {
		if sent, ok := req.values[parameter]; ok {
			record.Values[parameter] = sent
		}
	}
	data, err := cbor.Marshal(record)
	switch {
	case err != nil:
		return "", serverError(err)
	case len(data) > longestPushed:
		return "", invalidRequest("The request is too long.")
	}
	uri = pushedPrefix + name
	end := p.config.Now().Add(pushedLifetime)
	err = p.config.Store.PutToken(ctx, &storage.Token{
		Kind: storage.TokenPushed, Signature: pushedSignature(uri), ClientID: req.client.ID, Active: true,
		ExpiresAt: end, KeepUntil: end.Add(pushedRetention), Data: data,
	})
	if err != nil {
		return "", unavailable(err)
	}
	return uri, nil
}

func pushedSignature(uri string) storage.TokenSignature { return sha256.Sum256([]byte(uri)) }

// pushedQuery returns what counts of a query that names a pushed request; ok is false for any
// other query. Not even a fault in what else stands there counts.
func pushedQuery(raw string) (clientID, uri string, ok bool) {
	all, err := url.ParseQuery(raw)
	if err != nil || len(all["client_id"]) != 1 || len(all["request_uri"]) != 1 {
		return "", "", false
	}
	clientID, uri = all.Get("client_id"), all.Get("request_uri")
	return clientID, uri, strings.HasPrefix(uri, pushedPrefix) && form.Clean(clientID)
}

// pastRequest is the answer to the name of a request that is not there for this client any more.
// It is for the person: whatever else the browser brings with such a name is not to be believed.
func pastRequest(cause error) *oauthError {
	return &oauthError{
		status: http.StatusBadRequest, code: "invalid_request_uri",
		description: "The request is unknown, has expired or was used already. Go back to where you came from and start again.", cause: cause,
	}
}

// pushedRequest reads a request that was pushed. No other parameter of the browser's counts.
func (p *Provider) pushedRequest(ctx context.Context, client fositestore.Client, uri string, arrived bool) (*authorizeRequest, error) {
	signature := pushedSignature(uri)
	t, err := p.config.Store.Token(ctx, storage.TokenPushed, signature)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, pastRequest(err)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	var record pushedRecord
	if err := cbor.Unmarshal(t.Data, &record); err != nil || record.Version != pushedVersion {
		return nil, serverError(fmt.Errorf("provider: a pushed request of version %d: %w", record.Version, err))
	}
	raw := carriedQuery(record.Values, url.Values{"client_id": {client.ID}, "request_uri": {uri}})
	end := t.ExpiresAt
	if arrived {
		end = t.KeepUntil
	}
	switch now := p.config.Now(); {
	case t.ClientID != client.ID, !t.Active:
		return nil, pastRequest(nil)
	case !now.Before(end):
		return nil, pastRequest(&lateRequest{raw})
	}
	req := &authorizeRequest{raw: raw, client: client, pushed: &signature, signed: record.Signed}
	var fault error
	if client.RequireRequestObject && !record.Signed {
		fault = unsigned()
	}
	return p.readAuthorize(ctx, req, record.Values, fault)
}

// carriedQuery is the query that the pages carry for a request whose parameters are elsewhere:
// what leads to them, and the language that they are in.
func carriedQuery(parameters, query url.Values) string {
	if locales := parameters.Get("ui_locales"); locales != "" {
		query.Set("ui_locales", locales)
	}
	return query.Encode()
}

// usePushed uses a pushed request up; of two units of work that do so one fails to commit.
func (p *Provider) usePushed(ctx context.Context, req *authorizeRequest) error {
	if req.pushed == nil {
		return nil
	}
	return p.config.Store.UseToken(ctx, storage.TokenPushed, *req.pushed, p.config.Now())
}
