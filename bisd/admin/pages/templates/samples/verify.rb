require "openssl"

def verify_webhook(api_key, body, signature)
  calculated = [OpenSSL::HMAC.digest("SHA256", api_key, body)].pack("m0")
  OpenSSL.secure_compare(calculated, signature.to_s)
end
