package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// screen is what the terminal PC shows. On a terminal the QR code is redrawn in place; in a
// pipe or a file it is drawn once and each new frame is one line of text.
type screen struct {
	out      io.Writer
	terminal bool
	// drawn is how many lines stand below the heading and are replaced by the next drawing.
	drawn   int
	scanned bool
}

func newScreen(out io.Writer) *screen {
	return &screen{out: out, terminal: isTerminal(out)}
}

// isTerminal reports whether a person is at the other end of a stream.
func isTerminal(stream any) bool {
	file, isFile := stream.(*os.File)
	if !isFile {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	// The null device is a character device too.
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// open shows a new attempt.
func (s *screen) open(device *player.ConsumptionDevice, attempt *player.Attempt) {
	fmt.Fprintf(s.out, "Sign in to %s\n\n", printable(device.Issuer))
	fmt.Fprintf(s.out, "Scan the QR code with the phone, or open %s\nand type the code %s. It lasts %s.\n\n",
		printable(attempt.VerificationURI), printable(attempt.UserCode), minutes(attempt.Lifetime))
	if device.Grant == player.GrantDevice {
		fmt.Fprintf(s.out, "Approve only if the phone shows the same code: %s\n\n", printable(attempt.UserCode))
	}
	if attempt.Payload == "" {
		return
	}
	s.frame(attempt.Payload, true)
}

// frame shows the QR code and its text, which the terminal phone takes.
func (s *screen) frame(payload string, first bool) {
	if s.terminal || first {
		picture, err := qr.Terminal(payload)
		if err != nil {
			fmt.Fprintf(s.out, "%s\n", oneLine(err.Error()))
			return
		}
		if !s.terminal {
			picture = withoutColours(picture)
		}
		s.replace(picture + "\nQR text: " + printable(payload) + "\n")
		return
	}
	fmt.Fprintf(s.out, "QR text: %s\n", printable(payload))
}

// withoutColours removes the escape sequences, which only a terminal understands.
func withoutColours(picture string) string {
	var b strings.Builder
	for i, part := range strings.Split(picture, "\x1b[") {
		if i > 0 {
			_, part, _ = strings.Cut(part, "m")
		}
		b.WriteString(part)
	}
	return b.String()
}

// replace draws text over what was drawn last. A line that the terminal wraps is counted
// short, so wrapping is turned off while drawing.
func (s *screen) replace(text string) {
	if !s.terminal {
		fmt.Fprint(s.out, text)
		return
	}
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
	}
	fmt.Fprint(s.out, "\x1b[?7l"+text+"\x1b[?7h")
	s.drawn = strings.Count(text, "\n")
}

// update shows a change while waiting.
func (s *screen) update(u player.Update) {
	switch {
	case u.Trouble != nil:
		line, _ := explain(u.Trouble)
		fmt.Fprintf(s.out, "%s Trying again in %s.\n", trouble(u.Trouble, line), u.RetryIn.Round(time.Second))
		// What was written below the code must not be counted as part of it.
		s.drawn = 0
	case u.CheckCode != "" && !s.scanned:
		s.scanned = true
		s.replace(bigCheckCode(u.CheckCode))
	case u.Payload != "" && !s.scanned:
		s.frame(u.Payload, false)
	}
}

func trouble(err error, line string) string {
	var lost *player.UnreachableError
	if errors.As(err, &lost) {
		return "No connection to " + printable(lost.Origin) + "."
	}
	return oneLine(line) + "."
}

// bigCheckCode draws the check code large enough to be seen from the phone.
func bigCheckCode(code string) string {
	const height = 5
	glyphs := map[rune][height]string{
		'0': {"███", "█ █", "█ █", "█ █", "███"}, '1': {" █ ", "██ ", " █ ", " █ ", "███"},
		'2': {"███", "  █", "███", "█  ", "███"}, '3': {"███", "  █", "███", "  █", "███"},
		'4': {"█ █", "█ █", "███", "  █", "  █"}, '5': {"███", "█  ", "███", "  █", "███"},
		'6': {"███", "█  ", "███", "█ █", "███"}, '7': {"███", "  █", "  █", "  █", "  █"},
		'8': {"███", "█ █", "███", "█ █", "███"}, '9': {"███", "█ █", "███", "  █", "███"},
	}
	var b strings.Builder
	b.WriteString("A phone has scanned the QR code. Type this number there, if it is your phone:\n\n")
	for row := range height {
		b.WriteString("      ")
		for _, digit := range code {
			b.WriteString(glyphs[digit][row] + "   ")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "\nNumber: %s\nNot your phone? Press Ctrl-C.\n", printable(code))
	return b.String()
}

// signedIn shows whose account it is now, before anything else.
func (s *screen) signedIn(claims map[string]any, tokens *player.Tokens) {
	fmt.Fprintf(s.out, "\nSigned in as %s.\n", printable(account(claims)))
	fmt.Fprintf(s.out, "The tokens are not stored; they end with this command. Granted: %s.\n", printable(orNothing(tokens.Scope)))
	if strings.EqualFold(tokens.TokenType, dpop.Scheme) {
		fmt.Fprintln(s.out, "They are bound to a key that ends with it too: a copy of them is worth nothing.")
	}
	fmt.Fprintln(s.out, "Claims of the verified ID token:")
	printClaims(s.out, claims)
}

func orNothing(scope string) string {
	if scope == "" {
		return "nothing more than the sign-in"
	}
	return scope
}

// account is the most telling name in the claims.
func account(claims map[string]any) string {
	for _, name := range []string{"preferred_username", "name", "email", "sub"} {
		if value, ok := claims[name].(string); ok && value != "" {
			return value
		}
	}
	return "an unnamed account"
}

func printClaims(out io.Writer, claims map[string]any) {
	names := make([]string, 0, len(claims))
	for name := range claims {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		value, err := json.Marshal(claims[name])
		if err != nil {
			continue
		}
		fmt.Fprintf(out, "  %-10s %s\n", printable(name), printable(string(value)))
	}
}

func minutes(d time.Duration) string {
	if d%time.Minute == 0 && d >= 2*time.Minute {
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}
