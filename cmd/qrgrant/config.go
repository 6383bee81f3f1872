package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// configFile is the YAML file of `qrgrant serve`. A key it does not know is an error, so that
// a misspelt restriction is never silently missing. Clients and Users are taken over whenever the
// file changes, the rest (configserver.go) at a start.
type configFile struct {
	Issuer              string          `yaml:"issuer"`
	Addr                string          `yaml:"addr"`
	DB                  string          `yaml:"db"`
	AdminSocket         string          `yaml:"admin_socket"`
	TLS                 tlsConfig       `yaml:"tls"`
	TrustedProxies      []string        `yaml:"trusted_proxies"`
	BackchannelNetworks []string        `yaml:"backchannel_networks"`
	Templates           string          `yaml:"templates"`
	Log                 logConfig       `yaml:"log"`
	Lifetimes           lifetimesConfig `yaml:"lifetimes"`
	Keys                keysConfig      `yaml:"keys"`
	Limits              limitsConfig    `yaml:"limits"`
	AppLinks            appLinksConfig  `yaml:"app_links"`
	// FetchNetworks and those below are provider.Config's.
	FetchNetworks  []string           `yaml:"fetch_networks"`
	DPoPNonce      string             `yaml:"dpop_nonce"`
	Registration   registrationConfig `yaml:"registration"`
	ClientMetadata bool               `yaml:"client_metadata"`
	Implicit       bool               `yaml:"implicit"`
	Hybrid         bool               `yaml:"hybrid"`
	RequestObjects bool               `yaml:"request_objects"`
	RequestURIs    bool               `yaml:"request_uris"`
	Pairwise       bool               `yaml:"pairwise"`

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

	// AuthMethod and those below are storage.Client's, by their names in client metadata where
	// they have one.
	AuthMethod        string         `yaml:"auth_method"`
	AuthAlg           string         `yaml:"auth_alg"`
	AssertionAudience string         `yaml:"assertion_audience"`
	JWKS              map[string]any `yaml:"jwks"`
	JWKSURI           string         `yaml:"jwks_uri"`

	RequirePAR        bool     `yaml:"require_par"`
	RequireDPoP       bool     `yaml:"require_dpop"`
	AccessTokenFormat string   `yaml:"access_token_format"`
	Resources         []string `yaml:"resources"`
	Serves            []string `yaml:"serves"`
	UserinfoAlg       string   `yaml:"userinfo_alg"`

	RequestObjectAlg     string         `yaml:"request_object_alg"`
	RequestURIs          []string       `yaml:"request_uris"`
	RequireRequestObject bool           `yaml:"require_request_object"`
	ResponseTypes        []string       `yaml:"response_types"`
	DefaultMaxAge        *time.Duration `yaml:"default_max_age"`
	DefaultACRValues     []string       `yaml:"default_acr_values"`

	ApplicationType     string   `yaml:"application_type"`
	SubjectType         string   `yaml:"subject_type"`
	SectorIdentifierURI string   `yaml:"sector_identifier_uri"`
	InitiateLoginURI    string   `yaml:"initiate_login_uri"`
	Contacts            []string `yaml:"contacts"`
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
	err = decodeYAML(source, &file)
	// An empty file is an empty configuration.
	if err != nil && !errors.Is(err, io.EOF) {
		line, what := wordYAML(source, err)
		return nil, usagef("%v", &configError{file: name, line: line, what: what})
	}
	if line := oddKey(source); line > 0 {
		return nil, usagef("%v", &configError{file: name, line: line, what: "a key must be text; put it in quotes"})
	}
	if line := secondDocument(source); line > 0 {
		return nil, usagef("%v", &configError{file: name, line: line, what: "one document is read; remove the line --- and put everything together"})
	}
	if found := file.faults(source, getenv); len(found) > 0 {
		return nil, worded(name, source, found)
	}
	return &file, nil
}

// decodeYAML is the decoder, which panics at a tag on a value of another kind than its key takes:
// a file must not end the server that reads it again.
func decodeYAML(source []byte, file *configFile) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("the decoder gave up")
		}
	}()
	return yaml.UnmarshalWithOptions(source, file, yaml.Strict())
}

// configFaults are all faults of a file, a line of text each.
type configFaults struct{ lines []string }

// Error implements error.
func (e *configFaults) Error() string { return strings.Join(e.lines, "; ") }

// worded puts the faults in the order of the file and says where each stands.
func worded(name string, source []byte, found []fault) error {
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return usagef("%v", err)
	}
	errs := make([]*configError, 0, len(found))
	for _, at := range found {
		errs = append(errs, &configError{file: name, line: lineOf(file, at.path), what: at.what})
	}
	slices.SortStableFunc(errs, func(a, b *configError) int { return cmp.Compare(a.line, b.line) })
	faults := &configFaults{}
	for _, err := range errs {
		faults.lines = append(faults.lines, err.Error())
	}
	return faults
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
func lineOf(file *ast.File, path string) int {
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
