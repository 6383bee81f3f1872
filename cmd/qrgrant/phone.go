package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
)

// phoneRedirect is where the phone's authorization code is sent; nothing listens there.
const phoneRedirect = "http://127.0.0.1/callback"

const phoneDetail = `    The terminal phone. It signs in, claims the sign-in that --payload names, shows who asks
    for what, and sends the verdict. Without a verdict it asks; without --check-code it asks for
    the number on the other screen. Its token is not stored, and a server that can (RFC 9449)
    binds it to a key that is made for this run. --payload takes the text of a QR code, a code like
    BCDF-GHJK, or a /device?user_code= link.`

// phoneFlags is the command line of `qrgrant phone`.
type phoneFlags struct {
	issuer, payload, user, passwordFile, clientID, redirectURI, checkCode, userCode string
	approve, deny, report                                                           bool
}

func phoneVerb() verb {
	return verb{
		name:    "phone",
		summary: "the terminal phone: scans, shows who asks, and approves or denies",
		detail:  phoneDetail,
		prepare: func(flags *flag.FlagSet) action {
			var f phoneFlags
			flags.StringVar(&f.issuer, "issuer", "", "`URL` of the server, spelt as it spells itself (required)")
			flags.StringVar(&f.payload, "payload", "", "`TEXT` of the QR code, or the code beside it (required)")
			flags.StringVar(&f.user, "user", "", "user `NAME` to sign in with (required)")
			flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the password (required)")
			flags.StringVar(&f.clientID, "client-id", "phone", "`ID` of the phone app's client")
			flags.StringVar(&f.redirectURI, "redirect-uri", phoneRedirect, "`URI` registered for that client; nothing listens there")
			flags.BoolVar(&f.approve, "approve", false, "approve without asking")
			flags.BoolVar(&f.deny, "deny", false, "deny without asking")
			flags.BoolVar(&f.report, "report", false, "deny, and report that somebody tried to get in")
			flags.StringVar(&f.checkCode, "check-code", "", "the number `NN` on the other screen")
			flags.StringVar(&f.userCode, "user-code", "", "the code `XXXX-XXXX` on the other screen, where the server asks for it")
			return f.run
		},
	}
}

func (f *phoneFlags) run(ctx context.Context, e env) error {
	ref, phone, err := f.read()
	if err != nil {
		return err
	}
	if err := phone.SignIn(ctx); err != nil {
		return err
	}
	claim, err := phone.Scan(ctx, ref)
	if err != nil {
		return err
	}
	showContext(e.Stdout, f.user, claim)
	person := &person{in: bufio.NewReader(e.Stdin), out: e.Stdout}
	verdict, err := f.verdict(ctx, person, claim, ref)
	if err != nil {
		return err
	}
	return f.decide(ctx, e, phone, person, claim, verdict)
}

// read checks the command line before anything is sent: above all that the code belongs to
// the server the person named.
func (f *phoneFlags) read() (player.Reference, *player.Approver, error) {
	if f.issuer == "" || f.payload == "" || f.user == "" || f.passwordFile == "" {
		return player.Reference{}, nil, usagef("--issuer, --payload, --user and --password-file are required; see qrgrant help phone")
	}
	verdicts := 0
	for _, given := range []bool{f.approve, f.deny, f.report} {
		if given {
			verdicts++
		}
	}
	if verdicts > 1 {
		return player.Reference{}, nil, usagef("give one of --approve, --deny and --report")
	}
	if f.checkCode != "" && !isCheckCode(f.checkCode) {
		return player.Reference{}, nil, usagef("--check-code is %q; it must be two digits, from 10 to 99", f.checkCode)
	}
	issuer := strings.TrimSuffix(f.issuer, "/")
	if err := checkIssuer(issuer); err != nil {
		return player.Reference{}, nil, err
	}
	ref, err := player.ReadReference(issuer, f.payload)
	if err != nil {
		return player.Reference{}, nil, err
	}
	password, err := readSecret("--password-file", f.passwordFile)
	if err != nil {
		return player.Reference{}, nil, err
	}
	key, err := dpop.NewKey()
	if err != nil {
		return player.Reference{}, nil, err
	}
	return ref, &player.Approver{
		Issuer: issuer, ClientID: f.clientID, RedirectURI: f.redirectURI,
		Login: f.user, Password: password, HTTP: &http.Client{Timeout: requestTimeout}, Key: key,
	}, nil
}

// verdict takes the decision from the flags or asks for it. Deny is offered first, and
// approving needs the code from the other screen.
func (f *phoneFlags) verdict(ctx context.Context, p *person, claim *player.Claim, ref player.Reference) (player.Verdict, error) {
	v := player.Verdict{CheckCode: f.checkCode, UserCode: f.userCode}
	switch {
	case f.deny:
		v.Decision = "deny"
	case f.report:
		v.Decision = "report"
	case f.approve:
		v.Decision = "approve"
	default:
		var err error
		if v.Decision, err = p.askVerdict(ctx); err != nil {
			return v, err
		}
	}
	return f.withCode(ctx, p, claim, ref, v)
}

// withCode adds the code that an approval needs, and that the flags did not give.
func (f *phoneFlags) withCode(ctx context.Context, p *person, claim *player.Claim, ref player.Reference, v player.Verdict) (player.Verdict, error) {
	if v.Decision != "approve" {
		return v, nil
	}
	var err error
	if claim.CheckCodeRequired && v.CheckCode == "" {
		if v.CheckCode, v.Decision, err = p.askCheckCode(ctx); err != nil || v.Decision != "approve" {
			return v, err
		}
	}
	if claim.UserCodeRequired && v.UserCode == "" {
		if v.UserCode = ref.UserCode; v.UserCode == "" {
			v.UserCode, err = p.ask(ctx, "Type the code shown on the other screen: ")
		}
	}
	return v, err
}

// decision reads a verdict; "" when it is none. An empty line denies: it is the safe answer.
func decision(said string) string {
	switch strings.ToLower(said) {
	case "a", "approve":
		return "approve"
	case "r", "report":
		return "report"
	case "", "d", "deny", "n", "no":
		return "deny"
	}
	return ""
}

// decide sends the verdict, asks again for a mistyped code while tries are left, and reports.
func (f *phoneFlags) decide(ctx context.Context, e env, phone *player.Approver, p *person, claim *player.Claim, v player.Verdict) error {
	for {
		decided, err := phone.Decide(ctx, claim, v)
		var refusal *player.RefusalError
		retry := errors.As(err, &refusal) && refusal.Code == "check_code_mismatch" && f.checkCode == "" && f.userCode == "" &&
			refusal.TriesLeft != nil && *refusal.TriesLeft > 0
		switch {
		case retry:
			fmt.Fprintf(e.Stdout, "That is not what the other screen shows; tries left: %d.\n", *refusal.TriesLeft)
			v.CheckCode, v.UserCode = "", ""
			if v, err = f.withCode(ctx, p, claim, player.Reference{}, v); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case decided.State == "approved":
			fmt.Fprintln(e.Stdout, "Approved. The other device is being signed in.")
		case v.Decision == "report":
			fmt.Fprintln(e.Stdout, "Denied and reported. Nobody is signed in, and the other device cannot ask you again for some minutes.")
		default:
			fmt.Fprintln(e.Stdout, "Denied. Nobody is signed in.")
		}
		return nil
	}
}

// showContext puts into words what the server says about the other device.
func showContext(out io.Writer, user string, claim *player.Claim) {
	c := claim.Context
	fmt.Fprintf(out, "Another device wants to sign in as you, %s.\nIf you did not start this yourself just now, deny it.\n\n", printable(user))
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(out, "  %-9s %s\n", label, printable(text))
		}
	}
	line("App", fmt.Sprintf("%s (%s)", c.Client.Name, verifiedInWords(c.Client.Verified)))
	line("Server", c.Issuer)
	line("Device", c.Device.Description)
	if c.Device.NameUntrusted != "" {
		line("", fmt.Sprintf("it calls itself %q, which nobody has checked", c.Device.NameUntrusted))
	}
	line("Network", strings.Join(nonEmpty(c.Network.Name, c.Network.City, c.Network.Address, "distance "+c.Network.Distance), ", "))
	line("Message", c.BindingMessage)
	line("Asked", (time.Duration(c.AgeSeconds)*time.Second).String()+" ago")
	line("Code", c.UserCode)
	for i, scope := range c.Scopes {
		label := ""
		if i == 0 {
			label = "It gets"
		}
		line(label, scope.Text)
	}
	for i, resource := range c.Resources {
		label := ""
		if i == 0 {
			label = "Used at"
		}
		line(label, resource)
	}
	line("If yes", c.Consequence)
	for _, id := range c.Warnings {
		line("Careful", warningInWords(id))
	}
	fmt.Fprintln(out)
}

func verifiedInWords(how string) string {
	switch how {
	case "redirect":
		return "known by its address"
	case "attested":
		return "proved by its device"
	}
	return "its name is not verified"
}

// warningInWords explains the warnings this program knows; a newer server may have others.
func warningInWords(id string) string {
	switch id {
	case "client_unverified":
		return "any program can use the name of this app"
	case "entry_typed":
		return "you typed the code; never type one that somebody else gave you"
	case "entry_link":
		return "the code came as a link; never follow one that somebody else sent you"
	}
	return id
}

func nonEmpty(parts ...string) []string {
	var kept []string
	for _, part := range parts {
		if part != "" {
			kept = append(kept, part)
		}
	}
	return kept
}

// person is who answers at the terminal.
type person struct {
	in  *bufio.Reader
	out io.Writer
}

// askVerdict asks until the answer is a verdict: a typing mistake is not a decision.
func (p *person) askVerdict(ctx context.Context) (string, error) {
	for {
		said, err := p.ask(ctx, "Deny, report or approve this sign-in? [deny/report/approve] ")
		if err != nil {
			return "", err
		}
		if verdict := decision(said); verdict != "" {
			return verdict, nil
		}
		fmt.Fprintln(p.out, "Type deny, report or approve.")
	}
}

// askCheckCode asks until the answer can be a check code: a slip of the finger that cannot be
// one need not cost a try. The person may still deny or report instead.
func (p *person) askCheckCode(ctx context.Context) (code, verdict string, err error) {
	for {
		said, err := p.ask(ctx, "Type the number shown on the other screen (or deny, report): ")
		if err != nil {
			return "", "", err
		}
		if isCheckCode(said) {
			return said, "approve", nil
		}
		if verdict := decision(said); said != "" && verdict != "" && verdict != "approve" {
			return "", verdict, nil
		}
		fmt.Fprintln(p.out, "The number has two digits, from 10 to 99.")
	}
}

func isCheckCode(text string) bool {
	n, err := strconv.Atoi(text)
	return err == nil && len(text) == 2 && n >= 10
}

// ask puts a question and waits for a line; Ctrl-C ends the wait.
func (p *person) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(p.out, question)
	type reply struct {
		line string
		err  error
	}
	replies := make(chan reply, 1)
	go func() {
		line, err := p.in.ReadString('\n')
		replies <- reply{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-replies:
		line := strings.TrimSpace(got.line)
		if line == "" && got.err != nil && !errors.Is(got.err, os.ErrClosed) {
			return "", usagef("no answer on standard input; give --approve, --deny or --report, and --check-code")
		}
		return line, nil
	}
}
