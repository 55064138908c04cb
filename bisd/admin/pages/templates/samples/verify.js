const crypto = require("node:crypto");

function verifyWebhook(apiKey, body, signature) {
  const calculated = Buffer.from(crypto.createHmac("sha256", apiKey).update(body).digest("base64"));
  const received = Buffer.from(signature ?? "");
  return received.length === calculated.length && crypto.timingSafeEqual(received, calculated);
}
