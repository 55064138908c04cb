function verify_webhook(string $apiKey, string $body, string $signature): bool
{
    $calculated = base64_encode(hash_hmac('sha256', $body, $apiKey, true));
    return hash_equals($calculated, $signature);
}
