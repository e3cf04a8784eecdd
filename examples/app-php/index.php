<?php
// A calculator that keeps its history in a file, a line for each result: 3 + 4 = 7
//
// HISTORY_FILE  where it keeps it; the folder must be there
//
//   GET /          a page with a form, and the history
//   POST /         calculates the field "expression"
//   GET /history   the history alone
//   GET /healthz   for probes
declare(strict_types=1);

class NotUnderstood extends Exception {}

/** The result of two numbers with an operator between them. */
function calculate(string $expression): string
{
    $number = '(-?\d+(?:\.\d+)?)';
    if (strlen($expression) > 60 || !preg_match("~^\s*$number\s*([-+*/])\s*$number\s*$~D", $expression, $parts)) {
        throw new NotUnderstood('Two numbers, please, and +, -, * or / between them.');
    }
    [, $a, $operator, $b] = $parts;
    if ($operator === '/' && (float) $b === 0.0) {
        throw new NotUnderstood('Nothing can be divided by zero.');
    }
    $result = match ($operator) {
        '+' => $a + $b,
        '-' => $a - $b,
        '*' => $a * $b,
        '/' => $a / $b,
    };
    return "$a $operator $b = $result";
}

function answer(int $status, string $text, string $type = 'text/plain'): void
{
    http_response_code($status);
    header("Content-Type: $type; charset=utf-8");
    echo $text;
}

function page(string $history): string
{
    $pod = htmlspecialchars(gethostname());
    $history = htmlspecialchars($history);
    return <<<HTML
        <!doctype html>
        <title>Calculator</title>
        <h1>Calculator</h1>
        <form method="post"><input name="expression" placeholder="3 + 4" autofocus> <button>=</button></form>
        <p>Calculated by $pod:</p>
        <pre>$history</pre>

        HTML;
}

function post(string $file): void
{
    try {
        $line = calculate((string) ($_POST['expression'] ?? ''));
    } catch (NotUnderstood $error) {
        answer(400, $error->getMessage() . "\n");
        return;
    }
    // A line is added at once, by one at a time.
    if (file_put_contents($file, "$line\n", FILE_APPEND | LOCK_EX) === false) {
        answer(500, "The history cannot be written.\n");
    } elseif (str_contains($_SERVER['HTTP_ACCEPT'] ?? '', 'text/html')) {
        // A browser shows the page again.
        header('Location: /', true, 303);
    } else {
        answer(200, "$line\n");
    }
}

$file = getenv('HISTORY_FILE') ?: 'history';
$history = is_file($file) ? (string) file_get_contents($file) : '';
match ($_SERVER['REQUEST_METHOD'] . ' ' . parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    'GET /' => answer(200, page($history), 'text/html'),
    'POST /' => post($file),
    'GET /history' => answer(200, $history),
    'GET /healthz' => answer(200, "ok\n"),
    default => answer(404, "There is nothing here.\n"),
};
