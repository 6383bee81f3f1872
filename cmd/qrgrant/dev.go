package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
)

const devDetail = `    A server to try things on: the person alice with a password made for this run, the
    clients web, tv, cli and phone, and an example web application to sign in to, in a temporary database that is removed at the end.`

func devVerb() verb {
	return verb{
		name:    "dev",
		summary: "a seeded server on a temporary database; stays until Ctrl-C",
		detail:  devDetail,
		prepare: func(flags *flag.FlagSet) action {
			addr := flags.String("addr", "127.0.0.1:8080", "`HOST:PORT` to listen on, loopback only; port 0 takes a free one")
			return func(ctx context.Context, e env) error { return runDev(ctx, e, *addr) }
		},
	}
}

func runDev(ctx context.Context, e env, addr string) (err error) {
	if err := checkAddr(addr); err != nil {
		return err
	}
	if !isLoopback(addr) {
		return usagef("dev listens on loopback only, such as 127.0.0.1:8080; for a network use qrgrant serve")
	}
	app, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	webapp := &relyingparty.App{ClientID: "webapp", ClientSecret: rand.Text() + rand.Text(), URL: "http://" + app.Addr().String()}
	logger := slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	client := seedWebapp(webapp.URL, webapp.ClientSecret)
	running, seeded, err := openSeeded(ctx, addr, logger, &client)
	if err != nil {
		return errors.Join(err, app.Close())
	}
	defer func() { err = errors.Join(err, seeded.remove()) }()
	webapp.Issuer = running.issuer
	example := &http.Server{Handler: webapp.Handler(), ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout}
	go func() { _ = example.Serve(app) }() // it ends with Close
	defer func() { err = errors.Join(err, example.Close()) }()
	announce(e, running.issuer, webapp.URL, seeded)
	return running.serve(ctx)
}

// seededRun is what exists for the time of one run of dev or demo.
type seededRun struct {
	dir          string
	password     string
	passwordFile string
	webSecret    string
}

func (r *seededRun) remove() error { return os.RemoveAll(r.dir) }

// openSeeded opens a server on a database of its own with alice and the four clients in it,
// and a fifth unless extra is nil.
func openSeeded(ctx context.Context, addr string, logger *slog.Logger, extra *clientConfig) (*server, *seededRun, error) {
	dir, err := os.MkdirTemp("", "qrgrant-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	run := &seededRun{
		dir: dir, password: rand.Text(), webSecret: rand.Text() + rand.Text(),
		passwordFile: filepath.Join(dir, "alice.password"),
	}
	const variable = "password of alice"
	config := seedClients(run.webSecret)
	if extra != nil {
		config.Clients = append(config.Clients, *extra)
	}
	config.Users = []userConfig{seedUser(variable)}
	running, err := openServer(ctx, serverSettings{
		addr: addr, db: filepath.Join(dir, "qrgrant.db"), config: config, logger: logger,
		backchannelNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		getenv: func(name string) string {
			if name == variable {
				return run.password
			}
			return ""
		},
	})
	if err == nil {
		if err = os.WriteFile(run.passwordFile, []byte(run.password+"\n"), 0o600); err != nil {
			err = errors.Join(fmt.Errorf("write the password file: %w", err), running.abandon()) //nolint:contextcheck // The shutdown must not be cut short by what failed.
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, run.remove())
	}
	return running, run, nil
}

// announce tells a newcomer what is there and what to type next.
func announce(e env, issuer, webapp string, r *seededRun) {
	fmt.Fprintf(e.Stdout, `qrgrant dev serves %[1]s until Ctrl-C; everything is thrown away then.

  web app    %[6]s, an example that signs people in here
  discovery  %[1]s/.well-known/openid-configuration
  code page  %[1]s/device
  person     alice, password %[2]s
  clients    web    authorization code, secret %[4]s
             tv     device grant (RFC 8628)
             cli    QR grant
             phone  approves

1. In a second terminal, be the PC:

     %[5]s login --issuer %[1]s --client-id cli

2. In a third terminal, be the phone. Put the code that the PC shows in place of XXXX-XXXX:

     %[5]s phone --issuer %[1]s --user alice --password-file %[3]s --payload XXXX-XXXX

   It shows who asks, and wants the number that the PC shows from then on.

Or open the web app in a browser, choose "Sign in", and be the phone for the code it shows.

`, issuer, r.password, r.passwordFile, r.webSecret, e.Command, webapp)
}
