#!/bin/sh
# A page by predictions of one's own, then feedback on it: examples/clients/rank.sh [ADDRESS], of
#   pygrade serve --run RUN     where RUN is what `pygrade train` wrote for the tasks click and order
# PYGRADE_TOKEN: a token of the service, if it needs one.
set -eu
address=${1:-http://127.0.0.1:8080}
ask() {
  curl --silent --show-error --fail-with-body --max-time 2 \
    ${PYGRADE_TOKEN:+--header "Authorization: Bearer $PYGRADE_TOKEN"} \
    --header 'Content-Type: application/json' --data "$2" "$address$1"
}
page=$(ask /v1/rank '{
  "user": 7, "k": 3, "items": [11, 12, 13, 14], "context": {"hour": 20, "device": "phone"},
  "predictions": {"click": [0.11, 0.08, 0.21, 0.05], "order": [0.004, 0.019, 0.002, 0.001]}
}')
echo "$page"
request=$(echo "$page" | sed 's/.*"request_id":"\([^"]*\)".*/\1/')
ask /v1/update '{"events": [{"user": 7, "item": 12, "task": "click", "request_id": "'"$request"'", "event_id": "'"$request"'-1"}]}'
echo
