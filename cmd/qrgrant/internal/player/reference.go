package player

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"image/png"
	"net/url"
	"strings"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// userCodeAlphabet is that of protocol §2: no vowels, no look-alikes.
const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// Reference is what a phone was given to find the attempt: the text of a QR code or a typed
// user code, never both.
type Reference struct {
	Payload  string
	UserCode string
	// Entry is how it came: scanner or typed.
	Entry string
}

// ReadReference understands the text of a QR code, a `/device?user_code=` link and a user
// code in any case and with any separators. It refuses whatever belongs to another issuer:
// a phone must never carry its token to a server that a QR code names.
func ReadReference(issuer, text string) (Reference, error) {
	text = strings.TrimSpace(text)
	if strings.Contains(text, "://") {
		rest, ours := strings.CutPrefix(text, issuer+"/")
		if !ours {
			return Reference{}, fmt.Errorf("this code belongs to another server than %s; do not go on", issuer)
		}
		if strings.HasPrefix(rest, "Q#") || strings.HasPrefix(rest, "device?user_code=") {
			return Reference{Payload: text, Entry: "scanner"}, nil
		}
		return Reference{}, errors.New("this is a link of the server, but not a sign-in code")
	}
	code, ok := userCode(text)
	if !ok {
		return Reference{}, errors.New("this is neither the text of a QR code nor a code like BCDF-GHJK")
	}
	return Reference{UserCode: code, Entry: "typed"}, nil
}

func userCode(text string) (string, bool) {
	var letters strings.Builder
	for _, r := range strings.ToUpper(text) {
		switch {
		case strings.ContainsRune(userCodeAlphabet, r):
			letters.WriteRune(r)
		case strings.ContainsRune("- _.", r):
		default:
			return "", false
		}
	}
	if letters.Len() != 8 {
		return "", false
	}
	return letters.String()[:4] + "-" + letters.String()[4:], true
}

// IssuerOf returns the issuer that the text of a QR code names. A phone app compares it with
// its own; only the demonstration follows it.
func IssuerOf(payload string) (string, error) {
	issuer, _, found := strings.Cut(payload, "/Q#")
	if parsed, err := url.Parse(issuer); !found || err != nil || parsed.Host == "" {
		return "", errors.New("the QR code is not one of a qrgrant server")
	}
	return issuer, nil
}

// DecodePixels reads the QR code that a picture shows. The picture is a data: URI of a PNG,
// as `qr_image=png` gives it; nothing but its pixels is used.
func DecodePixels(dataURI string) (string, error) {
	encoded, ok := strings.CutPrefix(dataURI, "data:image/png;base64,")
	if !ok {
		return "", errors.New("the QR picture is not a PNG data: URI")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", fmt.Errorf("read the QR picture: %w", err)
	}
	picture, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("read the QR picture: %w", err)
	}
	bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
	if err != nil {
		return "", fmt.Errorf("look at the QR picture: %w", err)
	}
	// The library's detector, made for photographs, takes one drawing in three hundred
	// for something else; its reader of drawn pictures does not have to detect.
	for _, hint := range []gozxing.DecodeHintType{gozxing.DecodeHintType_PURE_BARCODE, gozxing.DecodeHintType_TRY_HARDER} {
		result, failed := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{hint: true})
		if failed == nil {
			return result.GetText(), nil
		}
		err = failed
	}
	return "", fmt.Errorf("no QR code in the picture: %w", err)
}
