package mesh

import "strings"

// sendable is what net/http makes of header fields that HTTP cannot carry: line ends become spaces, and what is still
// none is left out.
func sendable(fields []field) []field {
	var kept []field
	for _, f := range fields {
		f.value = strings.Trim(lineEnds.Replace(f.value), " \t")
		if f.name != "" && strings.IndexFunc(f.name, isNoToken) < 0 && strings.IndexFunc(f.value, isControl) < 0 {
			kept = append(kept, f)
		}
	}
	return kept
}

var lineEnds = strings.NewReplacer("\n", " ", "\r", " ")

// isNoToken says whether RFC 9110 5.6.2 keeps a character out of names.
func isNoToken(r rune) bool {
	isLetter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	return !isLetter && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
