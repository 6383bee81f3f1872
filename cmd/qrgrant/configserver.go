package main

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// tlsConfig names the server's certificate chain and private key, both in PEM.
type tlsConfig struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// logConfig is how much is logged and how it is written.
type logConfig struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// lifetimesConfig is how long what the provider issues lasts; zero is the provider's default.
type lifetimesConfig struct {
	AccessToken  time.Duration `yaml:"access_token"`
	IDToken      time.Duration `yaml:"id_token"`
	RefreshToken time.Duration `yaml:"refresh_token"`
	Session      time.Duration `yaml:"session"`
	SessionIdle  time.Duration `yaml:"session_idle"`
}

// keysConfig is the schedule of the signing keys; zero is the provider's default.
type keysConfig struct {
	Rotation     time.Duration `yaml:"rotation"`
	PublishAhead time.Duration `yaml:"publish_ahead"`
	Retention    time.Duration `yaml:"retention"`
}

// limitsConfig are the limits of protocol §9 and of pushed requests; zero is the default of
// qr.Limits or provider.Config.
type limitsConfig struct {
	OpensPerMinute         int           `yaml:"opens_per_minute"`
	OpenSessions           int           `yaml:"open_sessions"`
	BrowserOpensPerMinute  int           `yaml:"browser_opens_per_minute"`
	BrowserOpenSessions    int           `yaml:"browser_open_sessions"`
	Scans                  int           `yaml:"scans"`
	UserCodeTries          int           `yaml:"user_code_tries"`
	UserCodeTriesPerPrefix int           `yaml:"user_code_tries_per_prefix"`
	HeldPolls              int           `yaml:"held_polls"`
	HeldPollsPerClient     int           `yaml:"held_polls_per_client"`
	CoolDown               time.Duration `yaml:"cool_down"`
	PushesPerMinute        int           `yaml:"pushes_per_minute"`
	ClientPushesPerMinute  int           `yaml:"client_pushes_per_minute"`
}

func (l *limitsConfig) limits() qr.Limits {
	return qr.Limits{
		OpensPerMinute: l.OpensPerMinute, OpenSessions: l.OpenSessions,
		BrowserOpensPerMinute: l.BrowserOpensPerMinute, BrowserOpenSessions: l.BrowserOpenSessions,
		Scans: l.Scans, UserCodeTries: l.UserCodeTries, UserCodeTriesPerPrefix: l.UserCodeTriesPerPrefix,
		HeldPolls: l.HeldPolls, HeldPollsPerClient: l.HeldPollsPerClient, CoolDown: l.CoolDown,
	}
}

// appLinksConfig are the apps that open in place of the page a QR code leads to.
type appLinksConfig struct {
	Apple   []string           `yaml:"apple"`
	Android []androidAppConfig `yaml:"android"`
}

type androidAppConfig struct {
	Package string   `yaml:"package"`
	SHA256  []string `yaml:"sha256"`
}

func (l *appLinksConfig) links() provider.AppLinks {
	links := provider.AppLinks{Apple: l.Apple}
	for _, app := range l.Android {
		links.Android = append(links.Android, provider.AndroidApp(app))
	}
	return links
}

func (l *appLinksConfig) faults() []fault {
	var found faults
	for i, id := range l.Apple {
		found.when(provider.CheckAppleApp(id) != nil, fmt.Sprintf("$.app_links.apple[%d]", i),
			fmt.Sprintf("%q is not an app id like ABCDE12345.com.example.app", id))
	}
	for i, app := range l.links().Android {
		found.when(app.Check() != nil, fmt.Sprintf("$.app_links.android[%d]", i),
			"an Android app needs a package like com.example.app and sha256, fingerprints like AA:BB:… of 32 bytes")
	}
	return found
}

// configure sets what the file says of the provider.
func (f *configFile) configure(c *provider.Config) {
	c.AccessTokenLifetime, c.IDTokenLifetime, c.RefreshTokenLifetime = f.Lifetimes.AccessToken, f.Lifetimes.IDToken, f.Lifetimes.RefreshToken
	c.SessionLifetime, c.SessionIdle = f.Lifetimes.Session, f.Lifetimes.SessionIdle
	c.KeyRotation, c.KeyPublishAhead, c.KeyRetention = f.Keys.Rotation, f.Keys.PublishAhead, f.Keys.Retention
	c.AppLinks = f.AppLinks.links()
	c.PushesPerMinute, c.ClientPushesPerMinute = f.Limits.PushesPerMinute, f.Limits.ClientPushesPerMinute
	c.FetchNetworks, c.DPoPNonceOptional = networks(f.FetchNetworks), f.DPoPNonce == "optional"
	c.Registration, c.ClientMetadata = f.Registration.policy(), f.ClientMetadata
	c.Implicit, c.Hybrid, c.Pairwise = f.Implicit, f.Hybrid, f.Pairwise
	c.RequestObjects, c.RequestURIs = f.RequestObjects, f.RequestURIs
	if f.Templates != "" {
		c.Templates = os.DirFS(f.Templates)
	}
}

// logger writes to out as the file says.
func (f *configFile) logger(out io.Writer) *slog.Logger {
	var level slog.Level
	// serverFaults has refused what is no level; without one it is info.
	_ = level.UnmarshalText([]byte(f.Log.Level))
	options := &slog.HandlerOptions{Level: level}
	if f.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

// networks reads networks that serverFaults has not refused.
func networks(list []string) []netip.Prefix {
	var read []netip.Prefix
	for _, text := range list {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			read = append(read, prefix)
		}
	}
	return read
}

// serverFaults lists the faults of everything but clients and users. given are the paths of the
// values that stand in the file: one that does is checked though it be zero.
func (f *configFile) serverFaults(given map[string]bool) []fault {
	var found faults
	if f.Issuer != "" || given["$.issuer"] {
		found.refused("$.issuer", checkIssuer(f.Issuer))
	}
	if f.Addr != "" || given["$.addr"] {
		found.refused("$.addr", checkAddr(f.Addr))
	}
	for _, key := range []string{"db", "admin_socket", "templates", "tls.cert", "tls.key"} {
		found.when(given["$."+key] && f.text(key) == "", "$."+key, key+" must name a file")
	}
	found.when((f.TLS.Cert == "") != (f.TLS.Key == ""), "$.tls", "tls needs both cert and key")
	if info, err := os.Stat(f.Templates); f.Templates != "" && (err != nil || !info.IsDir()) {
		found.add("$.templates", fmt.Sprintf("templates is %q; it must be a directory that is there", f.Templates))
	}
	found.when(!slices.Contains([]string{"", "debug", "info", "warn", "error"}, f.Log.Level) || given["$.log.level"] && f.Log.Level == "",
		"$.log.level", "level is debug, info, warn or error")
	found.when(!slices.Contains([]string{"", "text", "json"}, f.Log.Format) || given["$.log.format"] && f.Log.Format == "",
		"$.log.format", "format is text or json")
	for _, n := range []struct {
		key  string
		list []string
	}{{"trusted_proxies", f.TrustedProxies}, {"backchannel_networks", f.BackchannelNetworks}, {"fetch_networks", f.FetchNetworks}} {
		for i, text := range n.list {
			_, err := netip.ParsePrefix(text)
			found.when(err != nil, fmt.Sprintf("$.%s[%d]", n.key, i), fmt.Sprintf("%q is not a network like 10.0.0.0/8", text))
		}
	}
	found.when(!slices.Contains([]string{"", "required", "optional"}, f.DPoPNonce) || given["$.dpop_nonce"] && f.DPoPNonce == "",
		"$.dpop_nonce", "dpop_nonce is required or optional")
	found.when(f.RequestURIs && !f.RequestObjects, "$.request_uris", "request_uris needs request_objects: true, which it is a way to send")
	found = append(found, f.Registration.faults(given)...)
	found = append(found, f.AppLinks.faults()...)
	found = append(found, f.durationFaults(given)...)
	return append(found, f.limitFaults(given)...)
}

func (f *configFile) text(key string) string {
	return map[string]string{"db": f.DB, "admin_socket": f.AdminSocket, "templates": f.Templates, "tls.cert": f.TLS.Cert, "tls.key": f.TLS.Key}[key]
}

// refused adds what a check of the command line says, in the words of the file.
func (f *faults) refused(path string, err error) {
	if err != nil {
		f.add(path, strings.TrimPrefix(err.Error(), "--"))
	}
}

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// durationBound is what a time in the file may be; fallback is what it is when left out.
type durationBound struct {
	path                      string
	value                     time.Duration
	least, greatest, fallback time.Duration
}

func (f *configFile) durations() []durationBound {
	return []durationBound{
		{"lifetimes.access_token", f.Lifetimes.AccessToken, time.Minute, day, 10 * time.Minute},
		{"lifetimes.id_token", f.Lifetimes.IDToken, time.Minute, day, 10 * time.Minute},
		{"lifetimes.refresh_token", f.Lifetimes.RefreshToken, time.Hour, year, 30 * day},
		{"lifetimes.session", f.Lifetimes.Session, 5 * time.Minute, year, 12 * time.Hour},
		{"lifetimes.session_idle", f.Lifetimes.SessionIdle, time.Minute, year, 2 * time.Hour},
		{"keys.rotation", f.Keys.Rotation, day, 2 * year, 90 * day},
		{"keys.publish_ahead", f.Keys.PublishAhead, time.Hour, year, day},
		{"keys.retention", f.Keys.Retention, time.Hour, 2 * year, 30 * day},
		{"limits.cool_down", f.Limits.CoolDown, time.Second, day, 5 * time.Minute},
	}
}

func (f *configFile) durationFaults(given map[string]bool) []fault {
	var found faults
	effective := map[string]time.Duration{}
	for _, d := range f.durations() {
		_, key, _ := strings.Cut(d.path, ".")
		effective[d.path] = d.fallback
		if d.value == 0 && !given["$."+d.path] {
			continue
		}
		effective[d.path] = d.value
		found.when(d.value < d.least || d.value > d.greatest, "$."+d.path,
			fmt.Sprintf("%s must be from %s to %s", key, shortTime(d.least), shortTime(d.greatest)))
	}
	if len(found) > 0 {
		return found
	}
	found.when(effective["lifetimes.session_idle"] > effective["lifetimes.session"], "$.lifetimes.session_idle",
		"session_idle must not be longer than session")
	found.when(effective["keys.publish_ahead"] >= effective["keys.rotation"], "$.keys.publish_ahead",
		"publish_ahead must be shorter than rotation")
	return found
}

// shortTime leaves out the zeros at the end of Duration.String.
func shortTime(d time.Duration) string {
	text := d.String()
	for _, zeros := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zeros) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// mostCounted bounds the numbers of limits.
const mostCounted = 1_000_000_000

func (f *configFile) limitFaults(given map[string]bool) []fault {
	var found faults
	l := &f.Limits
	for _, n := range []struct {
		key          string
		value, least int
	}{
		{"opens_per_minute", l.OpensPerMinute, 1},
		{"open_sessions", l.OpenSessions, 1},
		{"browser_opens_per_minute", l.BrowserOpensPerMinute, 1},
		{"browser_open_sessions", l.BrowserOpenSessions, 1},
		{"scans", l.Scans, 1},
		{"user_code_tries", l.UserCodeTries, 1},
		{"user_code_tries_per_prefix", l.UserCodeTriesPerPrefix, 1},
		{"held_polls", l.HeldPolls, -1},
		{"held_polls_per_client", l.HeldPollsPerClient, -1},
		{"pushes_per_minute", l.PushesPerMinute, 1},
		{"client_pushes_per_minute", l.ClientPushesPerMinute, 1},
	} {
		path := "$.limits." + n.key
		if n.value == 0 && !given[path] {
			continue
		}
		what := fmt.Sprintf("%s must be from 1 to %d", n.key, mostCounted)
		if n.least < 0 {
			what += ", or -1 to hold none"
		}
		found.when(n.value == 0 || n.value < n.least || n.value > mostCounted, path, what)
	}
	return found
}

// needRestart lists the keys in which next differs from the configuration that the server was
// started with, and which it reads at a start only.
func (f *configFile) needRestart(next *configFile) []string {
	var keys []string
	was, is := reflect.ValueOf(*f), reflect.ValueOf(*next)
	for i := range was.NumField() {
		key := was.Type().Field(i).Tag.Get("yaml")
		if key != "clients" && key != "users" && !reflect.DeepEqual(was.Field(i).Interface(), is.Field(i).Interface()) {
			keys = append(keys, key)
		}
	}
	return keys
}
