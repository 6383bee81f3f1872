package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

const serveDetail = `    The server. Give it a certificate with --tls-cert and --tls-key, or put a TLS proxy in front
    of it and name the proxy's network with --trusted-proxy; without a certificate, only those
    proxies and this machine are answered. A changed certificate is taken over as it is.

    The configuration lists clients and users. They are stored into the database at every start,
    when the file changes and at SIGHUP, all of them or none. A client or user that is taken out
    of the file stays in the database: to lock one, leave it in and say disabled: true. Who is
    locked, or gets another password, is signed out everywhere.

      clients:
        - id: tv
          name: Living-room TV
          grant_types: [device_code]      # or qr_code, authorization_code, refresh_token
          scopes: [openid, profile]
          qr: {enabled: true, allowed_scopes: [openid, profile], lifetime: 240s}
        - id: web
          secret_env: WEB_SECRET          # or secret_sha256: [HEX]
          redirect_uris: [https://app.example/callback]
          scopes: [openid]
        - id: phone
          approver: true
          first_party: true
          redirect_uris: [http://127.0.0.1/callback]
          grant_types: [authorization_code, refresh_token]
          scopes: [openid, qr:approve]
        - id: bank                        # what more a client can be asked to do
          auth_method: private_key_jwt    # or client_secret_basic, client_secret_post, none
          auth_alg: ES256                 # or PS256, EdDSA; RS256, ES384 have to be named
          assertion_audience: issuer      # endpoint accepts the URL of the endpoint too
          jwks_uri: https://bank.example/jwks.json   # or jwks: {keys: [...]}
          redirect_uris: [https://bank.example/callback]
          scopes: [openid]
          require_par: true               # its authorization requests must be pushed
          require_dpop: true              # its tokens are bound to a key
          access_token_format: jwt        # or opaque
          resources: [https://api.example]           # that it may ask tokens for
          serves: [https://own.example]   # that it is the server of, and introspects tokens for
          id_token_alg: EdDSA             # or ES256, RS256; so may userinfo_alg
          default_max_age: 10m            # where a request says none; so do default_acr_values
          initiate_login_uri: https://bank.example/begin
          contacts: [ops@bank.example]
      users:
        - login: alice
          password_env: ALICE_PASSWORD    # or password_hash, from qrgrant hash-password
          claims: {name: Alice Example}

    The file may also say what the server is; a flag wins over it, and a change needs a restart.
    What is left out is as shown. Times are like 90s, 10m or 720h.

      issuer: https://id.example          # as --issuer
      addr: 127.0.0.1:8080                # as --addr
      db: qrgrant.db                      # as --db
      admin_socket: qrgrant.db.sock       # as --admin-socket
      tls: {cert: FILE, key: FILE}        # as --tls-cert and --tls-key; none unless given
      trusted_proxies: [10.0.0.0/8]       # as --trusted-proxy; none unless given
      backchannel_networks: [10.0.0.0/8]  # as --backchannel-network; none unless given
      templates: DIR                      # files here take the place of the pages' own
      log: {level: info, format: text}    # debug, info, warn or error; text or json
      lifetimes: {access_token: 10m, id_token: 10m, refresh_token: 720h, session: 12h, session_idle: 2h}
      keys: {rotation: 2160h, publish_ahead: 24h, retention: 720h}
      limits:
        opens_per_minute: 600             # QR codes per network, and how many are open
        open_sessions: 300
        browser_opens_per_minute: 30      # the same per browser
        browser_open_sessions: 10
        scans: 10                         # per person in 10 minutes
        user_code_tries: 5                # wrong codes per person in 10 minutes, and per network
        user_code_tries_per_prefix: 20
        held_polls: 100000                # requests held at one time; -1 holds none
        held_polls_per_client: 50000
        cool_down: 5m                     # for a device that was reported
        pushes_per_minute: 120            # requests at /par per network, of clients that anybody can be
        client_pushes_per_minute: 6000    # and of each other client
      fetch_networks: [10.0.0.0/8]        # private networks that clients' keys are read from; none unless given
      dpop_nonce: required                # or optional
      registration:                       # clients may register themselves; nobody unless given
        initial_access_tokens_sha256: [HEX]   # from qrgrant initial-token; or open: true
        max_clients: 10000
      client_metadata: false              # clients whose id is the address of their description
      implicit: false                     # response_types id_token, id_token token
      hybrid: false                       # response_types code id_token and the like
      request_objects: false              # signed requests: request_object_alg, require_request_object
      request_uris: false                 # the same by request_uris
      pairwise: false                     # subject_type: pairwise, with sector_identifier_uri
      app_links:                          # apps that open when a phone's camera scans; none unless given
        apple: [ABCDE12345.com.example.app]
        android: [{package: com.example.app, sha256: ["AA:BB:…"]}]

    Private keys are sealed in the database under the key in --key-seal-file or in the
    environment variable QRGRANT_KEY_SEAL: 32 bytes in base64, as from openssl rand -base64 32.
    Several keys, one a line: the first seals, all open. To replace the key, put a new line above
    it and start again: everything is sealed anew, and the old line can go. A sealed database is
    opened with its key only; private keys that then turn up in the clear are refused.

    SIGTERM and Ctrl-C drain: held polls end, requests under way get 30 seconds.`

// serveFlags is the command line of `qrgrant serve`.
type serveFlags struct {
	issuer, addr, db, config string
	adminSocket              string
	tlsCert, tlsKey          string
	keySeal                  string
	proxies, backchannel     prefixes
	// flags is the command line that they were read from.
	flags *flag.FlagSet
}

// prefixes is a repeatable flag of networks.
type prefixes []netip.Prefix

// String implements flag.Value.
func (p *prefixes) String() string { return "" }

// Set implements flag.Value.
func (p *prefixes) Set(text string) error {
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("%q is not a network like 10.0.0.0/8", part)
		}
		*p = append(*p, prefix)
	}
	return nil
}

func serveVerb() verb {
	return verb{
		name:    "serve",
		summary: "the server, on a database file and a configuration file",
		detail:  serveDetail,
		prepare: func(flags *flag.FlagSet) action {
			f := serveFlags{flags: flags}
			flags.StringVar(&f.issuer, "issuer", "", "`URL` of the server as clients see it (default http:// and the address)")
			flags.StringVar(&f.addr, "addr", "127.0.0.1:8080", "`HOST:PORT` to listen on; port 0 takes a free one,\n0.0.0.0 is all of IPv4, [::] or no host IPv4 and IPv6")
			flags.StringVar(&f.db, "db", "", "database `FILE`, made if it is missing (required, here or in the configuration)")
			flags.StringVar(&f.config, "config", "", "configuration `FILE` in YAML (required)")
			flags.Var(&f.proxies, "trusted-proxy", "`CIDR` whose forwarded headers count; repeatable")
			flags.Var(&f.backchannel, "backchannel-network", "private `CIDR` in which clients may be told of sign-outs; repeatable")
			flags.StringVar(&f.adminSocket, "admin-socket", "", "`FILE` of the socket for qrgrant user and client (default the database's name and .sock)")
			flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate chain `FILE` in PEM")
			flags.StringVar(&f.tlsKey, "tls-key", "", "private key `FILE` in PEM")
			flags.StringVar(&f.keySeal, "key-seal-file", "", "`FILE` of the keys that private keys are sealed under in the database, one a line:\nthe first seals, all open (default the variable QRGRANT_KEY_SEAL)")
			return f.run
		},
	}
}

func (f *serveFlags) run(ctx context.Context, e env) error {
	if f.config == "" {
		return usagef("--config is required; see qrgrant help serve, or try qrgrant dev")
	}
	if err := f.check(); err != nil {
		return err
	}
	settings, err := f.settings(e)
	if err != nil {
		return err
	}
	running, err := openServer(ctx, settings)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.Stdout, "qrgrant serves %s on %s\n", running.issuer, running.listener.Addr())
	return running.serve(ctx)
}

// check refuses what the flags alone have wrong.
func (f *serveFlags) check() error {
	if err := checkAddr(f.addr); err != nil {
		return err
	}
	if f.issuer != "" {
		return checkIssuer(f.issuer)
	}
	return nil
}

// settings reads the files that the flags name.
func (f *serveFlags) settings(e env) (serverSettings, error) {
	// Looked at before it is read: a change in between is then seen as one.
	file := watch(f.config)
	config, err := readConfig(f.config, e.Getenv)
	if err != nil {
		return serverSettings{}, err
	}
	f.complete(config)
	if f.db == "" {
		return serverSettings{}, usagef("say which database with --db FILE, or with db: in %s", f.config)
	}
	s := serverSettings{
		issuer: f.issuer, addr: f.addr, db: f.db, trustedProxies: f.proxies, backchannelNetworks: f.backchannel,
		config: config, configFile: file, limits: config.Limits.limits(),
		adminSocket: cmp.Or(f.adminSocket, adminSocketOf(f.db)),
		getenv:      e.Getenv, logger: config.logger(e.Stderr),
	}
	switch {
	case (f.tlsCert == "") != (f.tlsKey == ""):
		return s, usagef("--tls-cert and --tls-key go together")
	case f.tlsCert != "":
		if s.certificate, err = openCertificate(f.tlsCert, f.tlsKey); err != nil {
			return s, usagef("%v", err)
		}
	// Passwords and tokens would cross the network in the clear.
	case !isLoopback(f.addr) && len(f.proxies) == 0:
		return s, usagef("%s is plain HTTP that others can reach; listen on 127.0.0.1, give --tls-cert and --tls-key, or name the TLS proxy in front with --trusted-proxy CIDR", f.addr)
	}
	s.keySeals, err = readKeySeals(f.keySeal, e.Getenv)
	return s, err
}

// complete takes from the configuration what the command line leaves open.
func (f *serveFlags) complete(config *configFile) {
	given := map[string]bool{}
	f.flags.Visit(func(each *flag.Flag) { given[each.Name] = true })
	for _, text := range []struct {
		name     string
		field    *string
		fromFile string
	}{
		{"issuer", &f.issuer, config.Issuer},
		{"addr", &f.addr, config.Addr},
		{"db", &f.db, config.DB},
		{"admin-socket", &f.adminSocket, config.AdminSocket},
	} {
		if !given[text.name] && text.fromFile != "" {
			*text.field = text.fromFile
		}
	}
	// A certificate of the one and a key of the other would not fit together.
	if !given["tls-cert"] && !given["tls-key"] {
		f.tlsCert, f.tlsKey = config.TLS.Cert, config.TLS.Key
	}
	if !given["trusted-proxy"] {
		f.proxies = networks(config.TrustedProxies)
	}
	if !given["backchannel-network"] {
		f.backchannel = networks(config.BackchannelNetworks)
	}
}

// keySealVariable holds the key seals when no file does.
const keySealVariable = "QRGRANT_KEY_SEAL"

// sealKeys are the keys that private keys are sealed under, and where they stand.
type sealKeys struct {
	keys [][]byte
	from string
}

// readKeySeals reads the keys that private keys are sealed under; none when none is given.
func readKeySeals(file string, getenv func(string) string) (sealKeys, error) {
	text, from := getenv(keySealVariable), keySealVariable
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return sealKeys{}, usagef("--key-seal-file: %v", err)
		}
		text, from = string(raw), file
	} else if text == "" {
		return sealKeys{}, nil
	}
	seals, line := sealKeys{from: from}, 0
	for each := range strings.Lines(text) {
		line++
		each = strings.TrimSpace(each)
		if each == "" {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(each)
		if err != nil || len(key) != 32 {
			return sealKeys{}, usagef("%s must hold 32 bytes in base64 on each line, and line %d is something else; make a key with: openssl rand -base64 32", from, line)
		}
		seals.keys = append(seals.keys, key)
	}
	if len(seals.keys) == 0 {
		return sealKeys{}, usagef("%s must hold 32 bytes in base64 and is empty; make a key with: openssl rand -base64 32", from)
	}
	return seals, nil
}

// fault words that none of the keys opens what is sealed in a database.
func (s sealKeys) fault(db string) error {
	if len(s.keys) == 0 {
		return usagef("the private keys in %s are sealed; give the key with --key-seal-file FILE or in %s", db, keySealVariable)
	}
	return usagef("the private keys in %s are sealed under a key that %s does not hold; add that key as a further line", db, s.from)
}
