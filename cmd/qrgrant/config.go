package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// configFile is the YAML file of `qrgrant serve`. A key it does not know is an error, so that
// a misspelt restriction is never silently missing.
type configFile struct {
	Clients []clientConfig `yaml:"clients"`
	Users   []userConfig   `yaml:"users"`
}

// clientConfig is one registered client. Secrets do not stand in the file: either their
// SHA-256 does, or the name of the environment variable that holds them.
type clientConfig struct {
	ID              string   `yaml:"id"`
	Name            string   `yaml:"name"`
	SecretEnv       string   `yaml:"secret_env"`
	SecretSHA256    []string `yaml:"secret_sha256"`
	RedirectURIs    []string `yaml:"redirect_uris"`
	GrantTypes      []string `yaml:"grant_types"`
	Scopes          []string `yaml:"scopes"`
	PKCE            string   `yaml:"pkce"`
	IDTokenAlg      string   `yaml:"id_token_alg"`
	FirstParty      bool     `yaml:"first_party"`
	Approver        bool     `yaml:"approver"`
	SharedAudiences []string `yaml:"shared_audiences"`
	Disabled        bool     `yaml:"disabled"`
	// PostLogoutRedirectURIs and the two below are those of OpenID Connect logout.
	PostLogoutRedirectURIs           []string `yaml:"post_logout_redirect_uris"`
	BackchannelLogoutURI             string   `yaml:"backchannel_logout_uri"`
	BackchannelLogoutSessionRequired bool     `yaml:"backchannel_logout_session_required"`
	// LogoURI and the three below are what people are shown of the client beside its name.
	LogoURI   string `yaml:"logo_uri"`
	ClientURI string `yaml:"client_uri"`
	PolicyURI string `yaml:"policy_uri"`
	TermsURI  string `yaml:"tos_uri"`

	QR qrConfig `yaml:"qr"`
}

// qrConfig is what a client may do with the two device grants.
type qrConfig struct {
	Enabled       bool          `yaml:"enabled"`
	AllowedScopes []string      `yaml:"allowed_scopes"`
	Lifetime      time.Duration `yaml:"lifetime"`
	UserCode      string        `yaml:"user_code"`
	OfflineAccess bool          `yaml:"offline_access"`
}

// userConfig is one person.
type userConfig struct {
	Login        string         `yaml:"login"`
	Subject      string         `yaml:"subject"`
	PasswordHash string         `yaml:"password_hash"`
	PasswordEnv  string         `yaml:"password_env"`
	Claims       map[string]any `yaml:"claims"`
	Disabled     bool           `yaml:"disabled"`
}

// configError is a fault in the file, with the line it stands on.
type configError struct {
	file string
	line int
	what string
}

func (e *configError) Error() string { return fmt.Sprintf("%s:%d: %s", e.file, e.line, e.what) }

// readConfig reads and checks the file; getenv resolves the variables it names.
func readConfig(name string, getenv func(string) string) (*configFile, error) {
	source, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("the configuration: %v", err)
	}
	var file configFile
	err = yaml.UnmarshalWithOptions(source, &file, yaml.Strict())
	// An empty file is an empty configuration.
	if err != nil && !errors.Is(err, io.EOF) {
		line, what := wordYAML(source, err)
		return nil, usagef("%v", &configError{file: name, line: line, what: what})
	}
	if line := secondDocument(source); line > 0 {
		return nil, usagef("%v", &configError{file: name, line: line, what: "one document is read; remove the line --- and put everything together"})
	}
	if at := file.firstFault(getenv); at != nil {
		return nil, usagef("%v", &configError{file: name, line: lineOf(source, at.path), what: at.what})
	}
	return &file, nil
}

// secondDocument is the line of a second YAML document, which the decoder would not look at;
// zero when there is none.
func secondDocument(source []byte) int {
	file, err := parser.ParseBytes(source, 0)
	if err != nil || len(file.Docs) < 2 || file.Docs[1].Start == nil {
		return 0
	}
	return file.Docs[1].Start.Position.Line
}

// fault is a rule broken by a value that is well-formed YAML.
type fault struct {
	// path is the YAML path of the value, such as $.clients[1].pkce.
	path, what string
}

// lineOf finds the line of the deepest part of path that the file has.
func lineOf(source []byte, path string) int {
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return 1
	}
	for ; path != "$"; path = parentPath(path) {
		at, err := yaml.PathString(path)
		if err != nil {
			continue
		}
		if node, err := at.FilterFile(file); err == nil {
			return firstLine(node)
		}
	}
	return 1
}

// firstLine is where a node begins; a mapping's own token is its first colon.
func firstLine(node ast.Node) int {
	if mapping, ok := node.(*ast.MappingNode); ok && len(mapping.Values) > 0 {
		node = mapping.Values[0].Key
	}
	return node.GetToken().Position.Line
}

func parentPath(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return "$"
}

// firstFault returns the first broken rule in file order, nil when there is none.
func (f *configFile) firstFault(getenv func(string) string) *fault {
	seen := map[string]bool{}
	for i := range f.Clients {
		at := fmt.Sprintf("$.clients[%d]", i)
		c := &f.Clients[i]
		if broken := c.fault(getenv); broken != nil {
			return &fault{at + "." + broken.path, broken.what}
		}
		if seen[c.ID] {
			return &fault{at + ".id", fmt.Sprintf("client %q stands here twice", c.ID)}
		}
		seen[c.ID] = true
	}
	logins, subjects := map[string]bool{}, map[string]bool{}
	for i := range f.Users {
		at := fmt.Sprintf("$.users[%d]", i)
		u := &f.Users[i]
		if broken := u.fault(getenv); broken != nil {
			return &fault{at + "." + broken.path, broken.what}
		}
		// A login is the same in any case.
		if logins[strings.ToLower(u.Login)] {
			return &fault{at + ".login", fmt.Sprintf("user %q stands here twice", u.Login)}
		}
		if u.Subject != "" && subjects[u.Subject] {
			return &fault{at + ".subject", fmt.Sprintf("subject %q is another user's already", u.Subject)}
		}
		logins[strings.ToLower(u.Login)], subjects[u.Subject] = true, true
	}
	return nil
}

func (c *clientConfig) fault(getenv func(string) string) *fault {
	switch {
	case c.ID == "":
		return &fault{"id", "a client needs an id"}
	case c.SecretEnv != "" && len(c.SecretSHA256) > 0:
		return &fault{"secret_env", "give secret_env or secret_sha256, not both"}
	case c.SecretEnv != "" && len(getenv(c.SecretEnv)) < minSecret:
		return &fault{"secret_env", fmt.Sprintf("the environment variable %s must hold a generated secret of at least %d characters", c.SecretEnv, minSecret)}
	case c.PKCE != "" && c.PKCE != "required" && c.PKCE != "optional":
		return &fault{"pkce", "pkce is required or optional"}
	case c.PKCE == "optional" && c.SecretEnv == "" && len(c.SecretSHA256) == 0:
		return &fault{"pkce", "a client without a secret always needs PKCE"}
	case c.IDTokenAlg != "" && c.IDTokenAlg != "ES256" && c.IDTokenAlg != "RS256":
		return &fault{"id_token_alg", "id_token_alg is ES256 or RS256"}
	case c.QR.UserCode != "" && c.QR.UserCode != "compare" && c.QR.UserCode != "type":
		return &fault{"qr.user_code", "user_code is compare or type"}
	case c.QR.Lifetime != 0 && c.QR.Lifetime < minLifetime:
		return &fault{"qr.lifetime", "lifetime must be at least 120s"}
	case c.QR.Lifetime > maxLifetime:
		return &fault{"qr.lifetime", "lifetime must be at most 10220s"}
	}
	if at := c.uriFault(); at != nil {
		return at
	}
	for i, grant := range c.GrantTypes {
		if _, known := grantTypes()[grant]; !known {
			return &fault{fmt.Sprintf("grant_types[%d]", i), fmt.Sprintf("unknown grant type %q; known are authorization_code, refresh_token, client_credentials, qr_code and device_code", grant)}
		}
	}
	if c.grants("qr_code") && c.grants("device_code") {
		return &fault{"grant_types", "a client has at most one of qr_code and device_code"}
	}
	if (c.grants("qr_code") || c.grants("device_code")) && !c.QR.Enabled {
		at := "qr"
		if reflect.ValueOf(c.QR).IsZero() {
			at = "grant_types"
		}
		return &fault{at, "this grant is off until it is switched on with qr: {enabled: true}; to switch a client off, say disabled: true"}
	}
	if c.Approver && !slices.Contains(c.Scopes, qr.ApproveScope) {
		return &fault{"approver", "an approver needs the scope " + qr.ApproveScope}
	}
	for i, sum := range c.SecretSHA256 {
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
			return &fault{fmt.Sprintf("secret_sha256[%d]", i), "this is not a SHA-256 in hexadecimal"}
		}
	}
	return nil
}

func (c *clientConfig) uriFault() *fault {
	for i, uri := range c.RedirectURIs {
		if provider.CheckRedirectURI(uri) != nil {
			return &fault{fmt.Sprintf("redirect_uris[%d]", i), fmt.Sprintf("%q cannot be redirected to: it must be absolute, without #, and https unless it leads to 127.0.0.1, [::1] or an app", uri)}
		}
	}
	for i, uri := range c.PostLogoutRedirectURIs {
		if provider.CheckRedirectURI(uri) != nil {
			return &fault{fmt.Sprintf("post_logout_redirect_uris[%d]", i), fmt.Sprintf("%q cannot be redirected to", uri)}
		}
	}
	if c.BackchannelLogoutURI != "" && provider.CheckBackchannelLogoutURI(c.BackchannelLogoutURI) != nil {
		return &fault{"backchannel_logout_uri", fmt.Sprintf("%q cannot be told: it must be absolute, without #, and https unless it is on this machine", c.BackchannelLogoutURI)}
	}
	shown := []struct{ key, uri string }{
		{"logo_uri", c.LogoURI}, {"client_uri", c.ClientURI}, {"policy_uri", c.PolicyURI}, {"tos_uri", c.TermsURI},
	}
	for _, s := range shown {
		if s.uri != "" && provider.CheckShownURI(s.uri) != nil {
			return &fault{s.key, fmt.Sprintf("%.80q cannot be shown to people: it must be https (http on this machine only) with a plain host name, without user, # or space, and at most %d characters", s.uri, provider.LongestShownURI)}
		}
	}
	return nil
}

func (u *userConfig) fault(getenv func(string) string) *fault {
	switch {
	case u.Login == "":
		return &fault{"login", "a user needs a login"}
	case u.PasswordHash != "" && u.PasswordEnv != "":
		return &fault{"password_env", "give password_hash or password_env, not both"}
	case u.PasswordHash != "" && provider.CheckPasswordHash(u.PasswordHash) != nil:
		return &fault{"password_hash", "this is not an argon2id hash; make one with: qrgrant hash-password"}
	case u.PasswordEnv != "" && getenv(u.PasswordEnv) == "":
		return &fault{"password_env", fmt.Sprintf("the environment variable %s is empty", u.PasswordEnv)}
	}
	return nil
}
