import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
)

func VerifyWebhook(apiKey string, body []byte, signature string) bool {
	mac := hmac.New(sha256.New, []byte(apiKey))
	mac.Write(body)
	calculated := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return hmac.Equal([]byte(calculated), []byte(signature))
}
