package form

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// Members parses a JSON object as a form: every member a clean string, none twice. An empty one
// counts as left out. Its error is a *Fault.
func Members(body []byte) (url.Values, error) {
	if !Clean(string(body)) {
		return nil, fault(http.StatusBadRequest, "The object holds invalid characters.")
	}
	members, err := object(body)
	if err != nil {
		return nil, err
	}
	values := make(url.Values, len(members))
	for name, raw := range members {
		var text *string
		if err := json.Unmarshal(raw, &text); err != nil || text == nil || !Clean(name) || !Clean(*text) {
			return nil, fault(http.StatusBadRequest, "A member is not a clean string.")
		}
		if *text != "" {
			values.Set(name, *text)
		}
	}
	return values, nil
}
