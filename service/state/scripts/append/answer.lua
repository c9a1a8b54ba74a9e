-- Answer: the click is stored.
return answer(0, judged, tonumber(number))
