package player

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// retries is how often a lost answer of the phone endpoints is asked for again. Both may be
// repeated: the claimer repeats a scan, and the same decision on the same handle moves once.
const retries = 4

// Approver is the phone. Issuer, ClientID, RedirectURI, Login, Password and HTTP are required
// for SignIn. It is not for concurrent use.
type Approver struct {
	Issuer   string
	ClientID string
	// RedirectURI is one registered for the client; nothing listens there, the phone takes
	// the code from the redirect itself, as a mobile app's claimed link does.
	RedirectURI string
	Login       string
	Password    string
	HTTP        *http.Client
	// Key binds the token where the server can (RFC 9449); nil asks for a bearer token.
	Key *dpop.Key

	config *configuration
	// proved sends what goes with the token, or with a proof alone; scheme is the token's.
	proved *http.Client
	scheme string
	token  string
}

// Claim is what the server answers to a scan: what the person must see before deciding.
type Claim struct {
	ConfirmHandle     string  `json:"confirm_handle"`
	ExpiresIn         int64   `json:"expires_in"`
	Context           Context `json:"context"`
	ContextDigest     string  `json:"context_digest"`
	CheckCodeRequired bool    `json:"check_code_required"`
	UserCodeRequired  bool    `json:"user_code_required"`
}

// Context is the protocol's §6 object, as far as a terminal shows it.
type Context struct {
	Client struct {
		ID       string `json:"id"`
		Name     string `json:"name"`
		Verified string `json:"verified"`
	} `json:"client"`
	Issuer string `json:"issuer"`
	Device struct {
		Description   string `json:"description"`
		NameUntrusted string `json:"name_untrusted"`
		Known         string `json:"known"`
	} `json:"device"`
	Network struct {
		Name     string `json:"name"`
		City     string `json:"city"`
		Distance string `json:"distance"`
		Address  string `json:"address"`
	} `json:"network"`
	UserCode string `json:"user_code"`
	Scopes   []struct {
		Name string `json:"name"`
		Text string `json:"text"`
	} `json:"scopes"`
	// Resources are the servers that the tokens will be for, beside the issuer.
	Resources      []string `json:"resources"`
	BindingMessage string   `json:"binding_message"`
	AgeSeconds     int64    `json:"age_seconds"`
	Consequence    string   `json:"consequence"`
	Warnings       []string `json:"warnings"`
}

// Verdict is the person's answer.
type Verdict struct {
	// Decision is approve, deny or report.
	Decision string
	// CheckCode and UserCode go with approve, when the claim asks for them.
	CheckCode string
	UserCode  string
}

// Decided is the server's answer to a decision.
type Decided struct {
	// State is approved or denied.
	State string `json:"state"`
	// SessionID is the sid that the consumption device will sign in under.
	SessionID string `json:"sid"`
}

// authorization is the header that goes with the token of SignIn.
func (p *Approver) authorization() string { return p.scheme + " " + p.token }

// Scan claims the attempt. Only the first phone gets the claim. SignIn comes first.
func (p *Approver) Scan(ctx context.Context, ref Reference) (*Claim, error) {
	config, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	request := map[string]string{"entry": ref.Entry}
	if ref.Payload != "" {
		request["payload"] = ref.Payload
	} else {
		request["user_code"] = ref.UserCode
	}
	var claim Claim
	err = p.again(ctx, func() error {
		return postJSON(ctx, p.proved, config.ScanEndpoint, p.authorization(), request, &claim)
	})
	if err != nil {
		return nil, err
	}
	return &claim, nil
}

// Decide sends the person's verdict on what the claim showed.
func (p *Approver) Decide(ctx context.Context, claim *Claim, v Verdict) (*Decided, error) {
	config, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	request := map[string]string{"confirm_handle": claim.ConfirmHandle, "decision": v.Decision}
	if v.Decision == "approve" {
		request["context_digest"] = claim.ContextDigest
		if claim.CheckCodeRequired {
			request["check_code"] = v.CheckCode
		}
		if claim.UserCodeRequired {
			request["user_code"] = strings.ToUpper(v.UserCode)
		}
	}
	var decided Decided
	err = p.again(ctx, func() error {
		return postJSON(ctx, p.proved, config.DecisionEndpoint, p.authorization(), request, &decided)
	})
	if err != nil {
		return nil, err
	}
	return &decided, nil
}

// discover reads the QR metadata once.
func (p *Approver) discover(ctx context.Context) (*configuration, error) {
	if p.config != nil {
		return p.config, nil
	}
	err := p.again(ctx, func() (err error) {
		p.config, err = discoverQR(ctx, p.HTTP, p.Issuer)
		return err
	})
	return p.config, err
}

// again repeats what may be repeated when its answer was lost.
func (p *Approver) again(ctx context.Context, ask func() error) error {
	for n := 1; ; n++ {
		err := ask()
		var lost *UnreachableError
		if !errors.As(err, &lost) || n == retries {
			return err
		}
		if err := pause(ctx, backOff(n)-time.Second/2); err != nil {
			return err
		}
	}
}
