package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
)

const serveDetail = `    The server. Give it a certificate with --tls-cert and --tls-key, or put a TLS proxy in front
    of it and name the proxy's network with --trusted-proxy. The configuration lists clients
    and users; they are stored into the database at every start, when the file changes and at
    SIGHUP. A changed certificate is taken over too. Taking one out of the file does not take it out of the
    database: to lock it, leave it in and say disabled: true.

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
      users:
        - login: alice
          password_env: ALICE_PASSWORD    # or password_hash, from qrgrant hash-password
          claims: {name: Alice Example}

    Private keys are sealed in the database under the key in --key-seal-file or in the
    environment variable QRGRANT_KEY_SEAL: 32 bytes in base64, as from openssl rand -base64 32.

    SIGTERM and Ctrl-C drain: held polls end, requests under way get 30 seconds.`

// serveFlags is the command line of `qrgrant serve`.
type serveFlags struct {
	issuer, addr, db, config string
	adminSocket              string
	tlsCert, tlsKey          string
	keySeal                  string
	proxies, backchannel     prefixes
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
			var f serveFlags
			flags.StringVar(&f.issuer, "issuer", "", "`URL` of the server as clients see it (default http:// and the address)")
			flags.StringVar(&f.addr, "addr", "127.0.0.1:8080", "`HOST:PORT` to listen on; port 0 takes a free one,\n0.0.0.0 is all of IPv4, [::] or no host IPv4 and IPv6")
			flags.StringVar(&f.db, "db", "", "database `FILE`, made if it is missing (required)")
			flags.StringVar(&f.config, "config", "", "configuration `FILE` in YAML (required)")
			flags.Var(&f.proxies, "trusted-proxy", "`CIDR` whose forwarded headers count; repeatable")
			flags.Var(&f.backchannel, "backchannel-network", "private `CIDR` in which clients may be told of sign-outs; repeatable")
			flags.StringVar(&f.adminSocket, "admin-socket", "", "`FILE` of the socket for qrgrant user and client (default the database's name and .sock)")
			flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate chain `FILE` in PEM")
			flags.StringVar(&f.tlsKey, "tls-key", "", "private key `FILE` in PEM")
			flags.StringVar(&f.keySeal, "key-seal-file", "", "`FILE` of the key that private keys are sealed under in the database")
			return f.run
		},
	}
}

func (f *serveFlags) run(ctx context.Context, e env) error {
	if f.db == "" || f.config == "" {
		return usagef("--db and --config are required; see qrgrant help serve, or try qrgrant dev")
	}
	if err := checkAddr(f.addr); err != nil {
		return err
	}
	if f.issuer != "" {
		if err := checkIssuer(f.issuer); err != nil {
			return err
		}
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

// settings reads the files that the flags name.
func (f *serveFlags) settings(e env) (serverSettings, error) {
	s := serverSettings{
		issuer: f.issuer, addr: f.addr, db: f.db, trustedProxies: f.proxies, backchannelNetworks: f.backchannel, configFile: f.config,
		adminSocket: cmp.Or(f.adminSocket, adminSocketOf(f.db)),
		getenv:      e.Getenv, logger: slog.New(slog.NewTextHandler(e.Stderr, nil)),
	}
	var err error
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
	if s.keySeal, err = readKeySeal(f.keySeal, e.Getenv); err != nil {
		return s, err
	}
	s.config, err = readConfig(f.config, e.Getenv)
	return s, err
}

// keySealVariable holds the key seal when no file does.
const keySealVariable = "QRGRANT_KEY_SEAL"

// readKeySeal reads the key that private keys are sealed under; nil when none is given.
func readKeySeal(file string, getenv func(string) string) ([]byte, error) {
	text, from := getenv(keySealVariable), keySealVariable
	if file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("--key-seal-file: %v", err)
		}
		text, from = string(raw), file
	} else if text == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != 32 {
		return nil, usagef("%s must hold 32 bytes in base64; make them with: openssl rand -base64 32", from)
	}
	return key, nil
}
