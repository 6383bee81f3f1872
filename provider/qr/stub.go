package qr

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/ory/fosite"
)

type Server struct{ config Config }

func New(c Config) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.defaults()
	return &Server{config: c}, nil
}

func (s *Server) DeviceAuthorization(w http.ResponseWriter, r *http.Request) {}
func (s *Server) Scan(w http.ResponseWriter, r *http.Request)                {}
func (s *Server) Decision(w http.ResponseWriter, r *http.Request)            {}
func (s *Server) Cancel(w http.ResponseWriter, r *http.Request)              {}
func (s *Server) Configuration(w http.ResponseWriter, r *http.Request)       {}
func (s *Server) Poll(w http.ResponseWriter, r *http.Request, client fosite.Client, form url.Values) (context.Context, bool) {
	return r.Context(), false
}
func (s *Server) WriteTokenError(w http.ResponseWriter, r *http.Request, err error)      {}
func (s *Server) Factory(config fosite.Configurator, storage, strategy any) any { return nil }
func (s *Server) Close() error                                                  { return nil }

type Approver struct {
	Subject, ClientID, SessionID, JKT string
	AuthTime                          time.Time
	AMR                               []string
	ACR                               string
	Address                           netip.Addr
}
type ScanRequest struct{ Payload, UserCode, Entry string }
type ScanAnswer struct {
	ConfirmHandle                       string
	ExpiresIn                           int
	Context                             Context
	ContextDigest                       string
	CheckCodeRequired, UserCodeRequired bool
}
type DecisionRequest struct {
	ConfirmHandle, Decision, ContextDigest, CheckCode, UserCode string
	Scope                                                       *string
}
type DecisionAnswer struct{ State, SID string }

func (s *Server) Claim(ctx context.Context, a Approver, req ScanRequest) (*ScanAnswer, error) {
	return nil, nil
}
func (s *Server) Decide(ctx context.Context, a Approver, req DecisionRequest) (*DecisionAnswer, error) {
	return nil, nil
}

type Problem struct {
	Status     int
	Code       string
	Detail     string
	TriesLeft  *int
	RetryAfter time.Duration
}

func (p *Problem) Error() string { return p.Code }

type ContextClient struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Verified string `json:"verified"`
}
type ContextDevice struct {
	Description   string `json:"description"`
	NameUntrusted string `json:"name_untrusted,omitempty"`
	Known         string `json:"known"`
}
type ContextNetwork struct {
	Name     string `json:"name,omitempty"`
	City     string `json:"city,omitempty"`
	Distance string `json:"distance"`
	Address  string `json:"address,omitempty"`
}
type ContextScope struct {
	Name string `json:"name"`
	Text string `json:"text"`
}
type Context struct {
	Client         ContextClient  `json:"client"`
	Door           string         `json:"door"`
	Issuer         string         `json:"issuer"`
	Device         ContextDevice  `json:"device"`
	Network        ContextNetwork `json:"network"`
	UserCode       string         `json:"user_code,omitempty"`
	Scopes         []ContextScope `json:"scopes"`
	BindingMessage string         `json:"binding_message,omitempty"`
	AgeSeconds     int64          `json:"age_seconds"`
	Consequence    string         `json:"consequence"`
	Warnings       []string       `json:"warnings"`
}
